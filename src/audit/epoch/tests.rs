use super::*;
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

/// Octets that no copy of them in the test's own memory can be taken for.
struct Masked(Vec<u8>);

impl Masked {
    const MASK: u8 = 0x55;

    fn new(octets: &[u8]) -> Self {
        Self(octets.iter().map(|octet| octet ^ Self::MASK).collect())
    }

    fn are_at(&self, begin: &[u8]) -> bool {
        begin.len() >= self.0.len()
            && begin
                .iter()
                .zip(&self.0)
                .all(|(one, other)| *one == other ^ Self::MASK)
    }

    /// How often they stand in these octets.
    fn count(&self, octets: &[u8]) -> usize {
        let first = self.0[0] ^ Self::MASK;
        memchr::memchr_iter(first, octets)
            .filter(|&place| self.are_at(&octets[place..]))
            .count()
    }

    /// How often they stand in what this process can write to.
    fn in_memory(&self) -> usize {
        let memory = File::open("/proc/self/mem").expect("this process's memory");
        let maps = fs::read_to_string("/proc/self/maps").expect("text");
        let mut found = 0;
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let range = line
                .split(' ')
                .next()
                .and_then(|range| range.split_once('-'));
            let (begin, end) = range.expect("a range");
            let place = |text| u64::from_str_radix(text, 16).expect("a place");
            let (mut begin, end) = (place(begin), place(end));
            let mut block = Zeroizing::new(vec![0; 1 << 20]);
            while begin < end {
                let size = (end - begin).min(block.len() as u64) as usize;
                // Other threads give memory back meanwhile.
                let Ok(read) = memory.read_at(&mut block[..size], begin) else {
                    break;
                };
                found += self.count(&block[..read]);
                if read == 0 || begin + read as u64 >= end {
                    break;
                }
                // They may stand across two blocks. A read can be short where memory is given back.
                let whole = (read + 1).saturating_sub(self.0.len());
                begin += whole.max(1) as u64;
            }
        }
        found
    }
}

#[test]
fn a_secret_that_has_signed_is_nowhere_in_memory_once_its_checkpoint_is_durable() {
    let origin = "mail.example/outbound";
    let begun = EpochKeys::begin(None, NamedEpoch::Nothing, &[7; 32], system_random);
    let (mut keys, _) = begun.expect("keys");
    for number in 0..20 {
        let secret = &keys.secrets[0];
        let text = Zeroizing::new(BASE64.encode(&secret.seed[..]));
        let used = [Masked::new(&secret.seed[..]), Masked::new(text.as_bytes())];
        drop(text);
        assert!(used[0].in_memory() > 0, "it is found where it is");
        drop(keys.content());
        keys.sign(origin, "a text\n").expect("a signature");
        keys.erase();
        drop(keys.content());
        let left = used.map(|used| used.in_memory());
        assert_eq!(left, [0, 0], "secret {number}, as octets and in base64");
        if number == 9 {
            // The same secrets, as the next process finds them in the file.
            let named = NamedEpoch::Key(keys.present().expect("a key"));
            let content = keys.content();
            drop(keys);
            let begun = EpochKeys::begin(Some(&content), named, &[7; 32], system_random);
            keys = begun.expect("keys").0;
        }
    }
}
