//! The power button: how a hypervisor asks a guest to end.

use std::fs::{self, File};
use std::io::Read;
use std::thread;

use anyhow::{Context, Result};

const FOLDER: &str = "/dev/input";
/// Bytes of an `input_event` where longs have 64 bits: two longs of time, type, code, value.
const EVENT_BYTES: usize = 24;
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
const PRESSED: i32 = 1;

/// Calls this whenever a power button is pressed, from a thread for each input device.
pub fn watch(pressed: impl Fn() + Clone + Send + 'static) -> Result<()> {
    let devices = fs::read_dir(FOLDER)
        .with_context(|| format!("cannot read {FOLDER}: the image needs the modules button and evdev"))?;
    for device in devices {
        let device = device?;
        if device.file_name().to_string_lossy().starts_with("event") {
            let (mut device, pressed) = (File::open(device.path())?, pressed.clone());
            thread::spawn(move || {
                let mut event = [0; EVENT_BYTES];
                while device.read_exact(&mut event).is_ok() {
                    if is_power_button(&event) {
                        pressed();
                    }
                }
            });
        }
    }
    Ok(())
}

fn is_power_button(event: &[u8; EVENT_BYTES]) -> bool {
    let [
        ..,
        type_0,
        type_1,
        code_0,
        code_1,
        value_0,
        value_1,
        value_2,
        value_3,
    ] = *event;
    u16::from_ne_bytes([type_0, type_1]) == EV_KEY
        && u16::from_ne_bytes([code_0, code_1]) == KEY_POWER
        && i32::from_ne_bytes([value_0, value_1, value_2, value_3]) == PRESSED
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u16, code: u16, value: i32) -> [u8; EVENT_BYTES] {
        let mut event = [7; EVENT_BYTES];
        event[16..18].copy_from_slice(&kind.to_ne_bytes());
        event[18..20].copy_from_slice(&code.to_ne_bytes());
        event[20..].copy_from_slice(&value.to_ne_bytes());
        event
    }

    #[test]
    fn only_a_pressed_power_button_counts() {
        assert!(is_power_button(&event(EV_KEY, KEY_POWER, PRESSED)));
        assert!(!is_power_button(&event(EV_KEY, KEY_POWER, 0)));
        assert!(!is_power_button(&event(EV_KEY, 30, PRESSED)));
        assert!(!is_power_button(&event(0, KEY_POWER, PRESSED)));
    }
}
