#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| circuit::fuzzing::membership_datagram(data));
