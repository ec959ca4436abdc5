//! Random choices that a seed repeats, and the messages that are sent.

/// SplitMix64.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `end` - 1.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end.max(1) as u64).expect("it is below a usize")
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// A message as its author has it: lines, some of which begin with dots; of no octet at all, too.
pub fn message(dice: &mut Dice) -> Vec<u8> {
    let size = match dice.below(10) {
        0 => return Vec::new(),
        1..=6 => dice.below(2_000),
        7 | 8 => dice.below(20_000),
        _ => dice.below(100 * 1024),
    };
    let mut text = format!("Message-ID: <{:016x}@client.test>\r\n", dice.roll()).into_bytes();
    while text.len() < size {
        text.extend_from_slice(dice.pick(&[&b""[..], b"", b".", b"..", b". "]));
        let length = dice.below(78);
        text.extend((0..length).map(|_| b"abcdefgh .,"[dice.below(11)]));
        text.extend_from_slice(b"\r\n");
    }
    text
}

/// With a dot more in front of each line that begins with one (RFC 5321 §4.5.2).
pub fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(message.len() + 64);
    let mut at_start = true;
    for &octet in message {
        if at_start && octet == b'.' {
            stuffed.push(b'.');
        }
        stuffed.push(octet);
        at_start = octet == b'\n';
    }
    stuffed
}
