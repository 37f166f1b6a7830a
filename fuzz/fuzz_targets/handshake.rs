#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| circuit_proto::fuzzing::handshake(data));
