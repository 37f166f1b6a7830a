#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| circuit::fuzzing::channel_queue(data));
