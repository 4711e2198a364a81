//! Run by `hack/fuzz`: no seed breaks the guest or its files.
#![no_main]

#[path = "../property.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|text: &str| property::holds(text));
