use super::*;
use data_encoding::HEXLOWER;
use proptest::prelude::*;

/// The leaves that implementations of RFC 6962 test with.
const DATA: [&str; 8] = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
];
/// The roots over the first of those leaves, the first two, and so on.
const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

fn leaf(datum: &[u8]) -> Hash {
    Hash::of(&[&[0], datum].concat())
}

fn octets(hex: &str) -> Vec<u8> {
    HEXLOWER.decode(hex.as_bytes()).unwrap()
}

fn hashes(hex: &[&str]) -> Vec<Hash> {
    hex.iter()
        .map(|hex| Hash::parse(hex.as_bytes()).unwrap())
        .collect()
}

fn known() -> KnownLeaves {
    KnownLeaves {
        before: RecordTree::default(),
        leaves: DATA.map(|datum| leaf(&octets(datum))).to_vec(),
    }
}

#[test]
fn roots_are_those_of_rfc_6962() {
    let mut tree = RecordTree::default();
    assert_eq!(tree.root(), Hash::of(b""));
    for (datum, root) in DATA.iter().zip(ROOTS) {
        tree.push_leaf(leaf(&octets(datum)));
        assert_eq!(tree.root().to_string(), root);
    }
}

#[test]
fn paths_are_those_of_rfc_6962() {
    let known = known();
    let inclusion = [
        (0, 1, &[][..]),
        (
            0,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            5,
            8,
            &[
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (
            2,
            3,
            &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
        ),
    ];
    for (index, size, path) in inclusion {
        assert_eq!(known.inclusion(index, size), Some(hashes(path)), "{index}");
    }
    let consistency = [
        (1, 1, &[][..]),
        (
            1,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            6,
            8,
            &[
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (
            2,
            5,
            &[
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ];
    for (old, size, path) in consistency {
        assert_eq!(known.consistency(old, size), Some(hashes(path)), "{old}");
    }
}

pub(in crate::audit) fn record(number: u64) -> Hash {
    Hash::of(&number.to_be_bytes())
}

pub(in crate::audit) fn tree(size: u64) -> RecordTree {
    let mut tree = RecordTree::default();
    (0..size).for_each(|number| tree.push(record(number)));
    tree
}

/// What is known of a tree of `size` records if the first `from` are elsewhere.
fn known_from(from: u64, size: u64) -> KnownLeaves {
    let mut known = KnownLeaves::behind(tree(from));
    (from..size).for_each(|number| known.push(record(number)));
    known
}

/// The path by its definition (RFC 6962 §2.1.2), out of all leaves.
fn naive(old: u64, leaves: std::ops::Range<u64>, is_whole: bool) -> Vec<Hash> {
    let root = |leaves: std::ops::Range<u64>| {
        let mut tree = RecordTree::default();
        leaves.for_each(|number| tree.push(record(number)));
        tree.root()
    };
    let size = leaves.end - leaves.start;
    if old == size {
        return if is_whole {
            Vec::new()
        } else {
            vec![root(leaves)]
        };
    }
    let mut half = 1;
    while half * 2 < size {
        half *= 2;
    }
    let middle = leaves.start + half;
    let (mut path, rest) = match old <= half {
        true => (
            naive(old, leaves.start..middle, is_whole),
            middle..leaves.end,
        ),
        false => (
            naive(old - half, middle..leaves.end, false),
            leaves.start..middle,
        ),
    };
    path.push(root(rest));
    path
}

#[test]
fn the_path_between_any_two_sizes_up_to_64_is_that_of_its_definition() {
    for size in 1..=64_u64 {
        for old in 1..=size {
            let path = naive(old, 0..size, true);
            let (then, now) = (tree(old).root(), tree(size).root());
            assert!(continues((old, then), (size, now), &path), "{old} {size}");
            for from in 0..=old {
                let mut made = ConsistencyPath::new(old, size, &tree(from)).unwrap();
                (from..size).for_each(|number| made.push(record(number)));
                assert_eq!(made.done().as_ref(), Some(&path), "{from} {old} {size}");
            }
        }
    }
}

#[test]
fn a_path_over_very_many_records_holds_two_hashes_a_level() {
    for (old, size) in [(1, u64::MAX >> 1), ((1 << 40) + 12_345, (1 << 62) + 99)] {
        let path = ConsistencyPath::new(old, size, &RecordTree::default()).unwrap();
        assert!(path.path.len() <= 2 * 63, "{}", path.path.len());
    }
    let path = ConsistencyPath::new(5, 9, &tree(0)).unwrap();
    assert_eq!(path.done(), None, "no record has come");
    for (old, size) in [(0, 9), (10, 9)] {
        assert!(ConsistencyPath::new(old, size, &tree(0)).is_none());
    }
}

proptest! {
    #[test]
    fn every_path_is_verified_and_no_changed_one(from in 0..70_u64, more in 1..70_u64, a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>()) {
        let size = from + more;
        let known = known_from(from, size);
        let root = tree(size).root();
        let index = from + a.index(more as usize) as u64;
        let path = known.inclusion(index, size).unwrap();
        prop_assert!(includes(root, size, index, record(index), &path));
        prop_assert!(!includes(root, size, index, record(index + 1), &path));
        prop_assert!(!includes(root, size, size, record(index), &path));
        let at = b.index(path.len().max(1));
        let mut changed = path.clone();
        if let Some(hash) = changed.get_mut(at) {
            hash.0[7] ^= 1;
            prop_assert!(!includes(root, size, index, record(index), &changed));
        }
        changed.truncate(at);
        if path.len() > at {
            prop_assert!(!includes(root, size, index, record(index), &changed));
        }

        let old = (from + a.index(more as usize) as u64).max(1);
        let path = known.consistency(old, size).unwrap();
        prop_assert!(continues((old, tree(old).root()), (size, root), &path));
        prop_assert!(!continues((old, record(0)), (size, root), &path));
        prop_assert!(!continues((old, tree(old).root()), (size, record(0)), &path));
        prop_assert!(old == size || !continues((old, tree(old).root()), (size + 1, root), &path[..path.len().saturating_sub(1)]));
    }

    #[test]
    fn a_path_that_is_made_record_by_record_is_that_of_the_whole_tree(size in 65..5000_u64, old in any::<prop::sample::Index>(), from in any::<prop::sample::Index>()) {
        let old = 1 + old.index(size as usize - 1) as u64;
        let from = from.index(size as usize) as u64;
        let mut path = ConsistencyPath::new(old, size, &tree(from));
        let mut known = KnownLeaves::behind(tree(from));
        for number in from..size {
            path.iter_mut().for_each(|path| path.push(record(number)));
            known.push(record(number));
        }
        let made = path.and_then(ConsistencyPath::done);
        prop_assert_eq!(&made, &known.consistency(old, size));
        prop_assert!(from > old || made.is_some(), "{} {} {}", from, old, size);
        if let Some(path) = made {
            prop_assert!(continues((old, tree(old).root()), (size, tree(size).root()), &path));
        }
    }

    #[test]
    fn a_range_is_read_back_and_goes_on(size in 0..300_u64, more in 0..40_u64) {
        let before = tree(size);
        let mut again = RecordTree::from_range(size, &before.range()).unwrap();
        prop_assert_eq!(&again, &before);
        prop_assert_eq!(RecordTree::from_range(size + 1, &before.range()).is_some(), (size + 1).count_ones() == size.count_ones());
        (size..size + more).for_each(|number| again.push(record(number)));
        prop_assert_eq!(&again, &tree(size + more));
        prop_assert!(before.can_precede(&again));
        let mut other = RecordTree::default();
        (0..size + more).for_each(|number| other.push(record(number + 1)));
        let has_common = size > 0 && bits(size).next() == bits(size + more).next();
        prop_assert!(!has_common || !before.can_precede(&other));
    }
}
