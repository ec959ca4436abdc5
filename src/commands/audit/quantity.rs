//! Numbers and sizes in a form for people.

/// A number with commas between thousands: `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of octets with a decimal unit: `1.2 kB`.
pub(super) fn size(octets: u64) -> String {
    const UNITS: [&str; 5] = ["octets", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    let mut divisor = 1_u64;
    while unit + 1 < UNITS.len() && octets / divisor >= 1000 {
        divisor *= 1000;
        unit += 1;
    }
    match unit {
        0 => format!("{octets} octets"),
        _ => {
            let tenths = u128::from(octets) * 10 / u128::from(divisor);
            format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(size(999), "999 octets");
        assert_eq!(size(1_250), "1.2 kB");
        assert_eq!(size(u64::MAX), "18446744.0 TB");
    }
}
