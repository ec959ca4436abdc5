use super::*;
use crate::audit::{
    Hash,
    epoch::{EpochKeys, EpochStart, NamedEpoch, named_by},
};
use std::sync::atomic::{AtomicU8, Ordering};

const ORIGIN: &str = "mail.example/outbound";

/// Random octets that the test knows: no two calls give the same.
fn counted(octets: &mut [u8]) -> bool {
    static NUMBER: AtomicU8 = AtomicU8::new(1);
    octets.fill(NUMBER.fetch_add(1, Ordering::Relaxed));
    true
}

fn begin(content: Option<&[u8]>, named: NamedEpoch) -> (EpochKeys, EpochStart) {
    EpochKeys::begin(content, named, b"seed", counted).unwrap()
}

/// A checkpoint of so many records, with the signature of the next epoch key.
fn note(keys: &mut EpochKeys, size: u64) -> String {
    let text = SignedNote::text(ORIGIN, size, Hash::of(&size.to_be_bytes()));
    let line = keys.sign(ORIGIN, &text).unwrap();
    format!("{text}\n{line}")
}

fn kept(keys: &[EpochPublic]) -> Vec<KeptKey> {
    let kept = keys.iter().map(|key| KeptKey {
        origin: ORIGIN.into(),
        key: *key,
    });
    kept.collect()
}

fn read(note: &str) -> SignedNote<'_> {
    SignedNote::read(note).unwrap()
}

fn named(note: &str) -> NamedEpoch {
    NamedEpoch::Key(named_by(&read(note)).unwrap())
}

/// Follows these checkpoints from a first key, which is given or taken from the log.
fn follow(first: EpochPublic, given: &[EpochPublic], notes: &[String]) -> Result<u64, EpochFault> {
    let mut chain = EpochChain::new(&kept(given), true);
    chain.named(0, Some(&first.verifier(ORIGIN)))?;
    for note in notes {
        chain.checkpoint(&read(note))?;
    }
    chain.end(&[Some(ORIGIN)])?;
    Ok(chain.found().signed)
}

#[test]
fn each_checkpoint_is_signed_with_the_key_that_the_one_before_names() {
    let (mut keys, start) = begin(None, NamedEpoch::Nothing);
    assert_eq!(start, EpochStart::First);
    let first = keys.present().unwrap();
    let notes: Vec<_> = (1..9).map(|size| note(&mut keys, size)).collect();
    assert_eq!(follow(first, &[first], &notes), Ok(8));
    assert_eq!(follow(first, &[], &notes), Ok(8));
    let mut without = notes.clone();
    without.remove(3);
    assert!(matches!(
        follow(first, &[], &without),
        Err(EpochFault::Rewritten(_))
    ));
    let unsigned = [
        notes[0].clone(),
        format!("{}\n", SignedNote::text(ORIGIN, 2, Hash::default())),
    ];
    assert!(matches!(
        follow(first, &[], &unsigned),
        Err(EpochFault::Unsigned(_))
    ));
    let other = begin(None, NamedEpoch::Nothing).0.present().unwrap();
    assert!(matches!(
        follow(first, &[other], &notes),
        Err(EpochFault::Rewritten(_))
    ));
}

#[test]
fn a_key_is_read_back_from_its_verifier_form_and_no_other_kind_of_key_is() {
    let key = begin(None, NamedEpoch::Nothing).0.present().unwrap();
    let text = key.verifier(ORIGIN);
    assert!(text.starts_with("mail.example/outbound/epoch+"), "{text}");
    assert_eq!(EpochPublic::from_verifier(&text), Some((ORIGIN, key)));
    assert_eq!(
        EpochPublic::from_verifier(&text.replace("/epoch", "/other")),
        None
    );
    let log_key = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    assert_eq!(EpochPublic::from_verifier(log_key), None);
}

#[test]
fn any_change_of_a_signed_checkpoint_is_noticed() {
    let (mut keys, _) = begin(None, NamedEpoch::Nothing);
    let first = keys.present().unwrap();
    let notes = [note(&mut keys, 7), note(&mut keys, 8)];
    for place in 0..notes[0].len() {
        let mut octets = notes[0].clone().into_bytes();
        octets[place] ^= 1;
        let Ok(changed) = String::from_utf8(octets) else {
            continue;
        };
        if SignedNote::read(&changed).is_some() {
            assert!(
                follow(first, &[], &[changed, notes[1].clone()]).is_err(),
                "octet {place}"
            );
        }
    }
}

#[test]
fn whoever_takes_all_secrets_later_cannot_sign_what_was_durable_before() {
    let (mut keys, _) = begin(None, NamedEpoch::Nothing);
    let first = keys.present().unwrap();
    let mut notes = Vec::new();
    for size in 1..6 {
        notes.push(note(&mut keys, size));
        keys.erase();
    }
    let stolen = keys.content();
    // With each of the two stolen secrets, each earlier checkpoint is signed anew, and the log goes on from there.
    let (mut thief, _) = begin(Some(&stolen), named(&notes[4]));
    let second = named(&note(&mut thief, 99));
    for secret in [named(&notes[4]), second] {
        for place in 0..notes.len() {
            let (mut thief, start) = begin(Some(&stolen), secret);
            assert_eq!(start, EpochStart::GoesOn);
            let mut forged = notes[..place].to_vec();
            forged.extend((0..3).map(|more| note(&mut thief, 100 + more)));
            assert!(
                follow(first, &[first], &forged).is_err(),
                "checkpoint {place}"
            );
        }
    }
    // What comes afterwards is the thief's.
    let (mut thief, _) = begin(Some(&stolen), named(&notes[4]));
    let mut forged = notes.clone();
    forged.push(note(&mut thief, 100));
    assert_eq!(follow(first, &[first], &forged), Ok(6));
}

#[test]
fn the_file_has_the_secret_of_the_named_key_before_and_after_each_step_and_torn_anywhere() {
    let (mut keys, _) = begin(None, NamedEpoch::Nothing);
    let mut at_hand = keys.content();
    let mut last = NamedEpoch::Key(keys.present().unwrap());
    for size in 0..5 {
        let made = note(&mut keys, size);
        keys.erase();
        let next = keys.content();
        assert_eq!(next.len(), at_hand.len());
        // The checkpoint is not durable, and the file is as it was.
        assert_eq!(begin(Some(&at_hand), last).1, EpochStart::GoesOn);
        // The checkpoint is durable, and the file is as it was, or new up to any octet, or from any octet on.
        last = named(&made);
        for place in 0..=next.len() {
            for torn in [
                [&next[..place], &at_hand[place..]],
                [&at_hand[..place], &next[place..]],
            ] {
                let (mut again, start) = begin(Some(&torn.concat()), last);
                assert_eq!(start, EpochStart::GoesOn, "octet {place}");
                assert_eq!(NamedEpoch::Key(again.present().unwrap()), last);
                note(&mut again, 9);
            }
        }
        at_hand = next;
    }
}

/// The secrets in the file, in base64, the older one first.
fn secrets(content: &[u8]) -> Vec<String> {
    let text = str::from_utf8(content).unwrap();
    let mut lines: Vec<_> = text.lines().skip(1).collect();
    lines.sort_unstable();
    let secrets = lines.iter().map(|line| line.split(' ').nth(1).unwrap());
    secrets.map(str::to_owned).collect()
}

#[test]
fn a_secret_is_in_the_file_until_its_checkpoint_is_durable_and_no_longer() {
    let (mut keys, _) = begin(None, NamedEpoch::Nothing);
    // An outage: three checkpoints are made before one is durable.
    let notes: Vec<_> = (0..3).map(|size| note(&mut keys, size)).collect();
    let mut gone: Vec<String> = Vec::new();
    for note in &notes {
        let before = secrets(&keys.content());
        keys.erase();
        let after = secrets(&keys.content());
        assert_eq!(before[1], after[0]);
        gone.push(before[0].clone());
        assert!(!gone.iter().any(|secret| after.contains(secret)));
        let (_, start) = begin(Some(&keys.content()), named(note));
        assert_eq!(start, EpochStart::GoesOn);
    }
}

#[test]
fn a_lost_file_begins_a_new_chain_and_says_why() {
    let (mut keys, _) = begin(None, NamedEpoch::Nothing);
    let first = keys.present().unwrap();
    let notes = [note(&mut keys, 1)];
    let named_key = named_by(&read(&notes[0])).unwrap();
    let other = begin(None, NamedEpoch::Nothing).0.content();
    for (content, why) in [
        (None, "is not there"),
        (Some(&b"something else"[..]), "has other content"),
        (Some(&other[..]), "has those of other keys"),
    ] {
        let (mut again, start) = begin(content, NamedEpoch::Key(named_key));
        let EpochStart::Lost(key, said) = start else {
            panic!("{start:?}")
        };
        assert!(key == named_key && said.contains(why), "{said}");
        let second = again.present().unwrap();
        let behind = note(&mut again, 3);
        // Who has the first key only is told; who has both goes on.
        for (given, is_good) in [
            (vec![], true),
            (vec![first], false),
            (vec![first, second], true),
        ] {
            let mut chain = EpochChain::new(&kept(&given), true);
            chain.named(0, Some(&first.verifier(ORIGIN))).unwrap();
            chain.checkpoint(&read(&notes[0])).unwrap();
            chain.lost(2);
            let went_on = chain.named(3, Some(&second.verifier(ORIGIN)));
            assert_eq!(went_on.is_ok(), is_good, "{went_on:?}");
            assert_eq!(
                went_on
                    .and_then(|()| chain.checkpoint(&read(&behind)))
                    .is_ok(),
                is_good
            );
            assert_eq!(
                (&chain.found().lost[..], chain.found().begun.len()),
                (&[2][..], 2)
            );
        }
        // Nobody may change the key silently.
        let mut chain = EpochChain::new(&[], true);
        chain.named(0, Some(&first.verifier(ORIGIN))).unwrap();
        assert!(chain.named(3, Some(&second.verifier(ORIGIN))).is_err());
    }
}

#[test]
fn where_records_are_not_here_the_chain_goes_on_but_a_first_key_shows_nothing() {
    let (mut keys, _) = begin(None, NamedEpoch::Nothing);
    let first = keys.present().unwrap();
    let notes: Vec<_> = (0..4).map(|size| note(&mut keys, size)).collect();
    let keys_named: Vec<_> = notes
        .iter()
        .map(|note| named_by(&read(note)).unwrap())
        .collect();
    // Older files are elsewhere. A key of theirs vouches for nothing here, and a later one for all.
    for (given, is_good) in [
        (vec![], true),
        (vec![first], false),
        (vec![first, keys_named[1]], true),
    ] {
        let mut chain = EpochChain::new(&kept(&given), false);
        assert_eq!(chain.checkpoint(&read(&notes[1])), Ok(()));
        assert_eq!(chain.checkpoint(&read(&notes[2])), Ok(()));
        assert_eq!(chain.end(&[Some(ORIGIN)]).is_ok(), is_good);
        assert!(chain.checkpoint(&read(&notes[0])).is_err());
    }
    // Behind a cut, a key that was kept before it vouches for nothing, and one that was kept behind it does.
    for (given, vouched) in [
        (vec![], 0),
        (vec![first], 1),
        (vec![first, keys_named[2]], 2),
    ] {
        let mut chain = EpochChain::new(&kept(&given), true);
        chain.named(0, Some(&first.verifier(ORIGIN))).unwrap();
        chain.checkpoint(&read(&notes[0])).unwrap();
        chain.gap();
        assert_eq!(chain.checkpoint(&read(&notes[2])), Ok(()));
        assert_eq!(chain.checkpoint(&read(&notes[3])), Ok(()));
        assert_eq!(chain.found().vouched, vouched);
    }
    // A log whose records are elsewhere goes on with the older of the two secrets.
    let (again, start) = begin(Some(&keys.content()), NamedEpoch::Unknown);
    assert_eq!((again.present(), start), (Some(first), EpochStart::GoesOn));
}

#[test]
fn a_key_that_was_kept_later_vouches_too_and_none_that_was_kept_may_be_missing() {
    let (mut keys, _) = begin(None, NamedEpoch::Nothing);
    let first = keys.present().unwrap();
    let notes: Vec<_> = (0..6).map(|size| note(&mut keys, size)).collect();
    let later = named_by(&read(&notes[3])).unwrap();
    let mut chain = EpochChain::new(&kept(&[later]), true);
    chain.named(0, Some(&first.verifier(ORIGIN))).unwrap();
    for note in &notes {
        chain.checkpoint(&read(note)).unwrap();
    }
    assert_eq!(chain.end(&[Some(ORIGIN)]), Ok(()));
    assert_eq!((chain.found().signed, chain.found().vouched), (6, 2));
    // A log that was cut before a key that was kept is not the one of which it was kept.
    assert!(follow(first, &[first, later], &notes[..3]).is_err());
    assert_eq!(follow(first, &[first, later], &notes), Ok(6));
    // A key of another log says nothing about this one, so one of this log is needed.
    let mut others = kept(&[begin(None, NamedEpoch::Nothing).0.present().unwrap()]);
    others[0].origin = "other.example/outbound".into();
    let mut both = others.clone();
    both.extend(kept(&[first]));
    for (given, is_good) in [(&others, false), (&both, true)] {
        let mut chain = EpochChain::new(given, true);
        chain.named(0, Some(&first.verifier(ORIGIN))).unwrap();
        chain.checkpoint(&read(&notes[0])).unwrap();
        assert_eq!(chain.end(&[Some(ORIGIN)]).is_ok(), is_good);
    }
}

#[test]
fn kept_keys_are_read_from_the_lines_of_a_journal() {
    let key = begin(None, NamedEpoch::Nothing).0.present().unwrap();
    let text = key.verifier(ORIGIN);
    assert_eq!(KeptKey::read(&text).unwrap(), kept(&[key]));
    assert!(KeptKey::read("/nonexistent").is_err());
    let line = format!("Nov 24 06:05:00 mail starttls-proxy[71]: audit epoch key={text}\nother\n");
    let file = std::env::temp_dir().join(format!("kept-keys-{}", std::process::id()));
    for (content, keys) in [
        (line.as_str(), Some(kept(&[key]))),
        ("audit epoch key=x\n", None),
    ] {
        std::fs::write(&file, content).unwrap();
        assert_eq!(KeptKey::read(file.to_str().unwrap()).ok(), keys);
    }
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_first_key_that_signs_nothing_shows_nothing() {
    let (mut keys, _) = begin(None, NamedEpoch::Nothing);
    let first = keys.present().unwrap();
    assert!(follow(first, &[first], &[]).is_err());
    // Nor does one behind which nothing is signed any more.
    let mut chain = EpochChain::new(&kept(&[first]), true);
    chain.named(0, Some(&first.verifier(ORIGIN))).unwrap();
    chain.checkpoint(&read(&note(&mut keys, 1))).unwrap();
    assert!(matches!(chain.named(2, None), Err(EpochFault::Unsigned(_))));
    // Without one, a log may go on without keys, and with new ones later.
    let mut chain = EpochChain::new(&[], true);
    chain.named(0, Some(&first.verifier(ORIGIN))).unwrap();
    chain.named(2, None).unwrap();
    chain
        .checkpoint(&read(&format!(
            "{}\n",
            SignedNote::text(ORIGIN, 3, Hash::default())
        )))
        .unwrap();
    chain
        .named(4, Some(&keys.present().unwrap().verifier(ORIGIN)))
        .unwrap();
}

#[test]
fn without_random_numbers_no_chain_begins_and_one_that_has_begun_still_leads_forward_only() {
    /// Gives what is needed to begin, and nothing later.
    fn fails_later(octets: &mut [u8]) -> bool {
        static CALLS: AtomicU8 = AtomicU8::new(0);
        octets.fill(1);
        CALLS.fetch_add(1, Ordering::Relaxed) < 3
    }
    assert!(EpochKeys::begin(None, NamedEpoch::Nothing, b"seed", |_| false).is_none());
    let (mut keys, _) = EpochKeys::begin(None, NamedEpoch::Nothing, b"seed", fails_later).unwrap();
    let first = keys.present().unwrap();
    let notes: Vec<_> = (0..4).map(|size| note(&mut keys, size)).collect();
    assert_eq!(follow(first, &[first], &notes), Ok(4));
    let mut seen: Vec<_> = notes.iter().map(|note| named_by(&read(note))).collect();
    seen.dedup();
    assert_eq!(seen.len(), 4);
}
