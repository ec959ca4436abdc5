#![no_main]
//! Any bytes as replies: read alike however they are cut, and shown as nothing but whole printable lines.

use starttls_proxy::smtp::{Reply, ReplyPart, ReplyReader};

/// The replies in `bytes`, cut at `cut`, and whether all of it was well-formed.
fn replies(bytes: &[u8], cut: usize) -> (Vec<Reply<'_>>, bool) {
    let mut reader = ReplyReader::default();
    let (mut replies, mut taken) = (Vec::new(), 0);
    for end in [cut, bytes.len()] {
        loop {
            match reader.read(&bytes[taken..end]) {
                ReplyPart::More(length) => taken += length,
                ReplyPart::Whole(length, reply) => {
                    taken += length;
                    replies.push(reply);
                }
                ReplyPart::Partial => break,
                ReplyPart::Malformed => return (replies, false),
            }
        }
    }
    (replies, true)
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let whole = replies(bytes, bytes.len());
    assert_eq!(whole, replies(bytes, usize::from(cut).min(bytes.len())));
    for reply in whole.0 {
        assert!((200..600).contains(&reply.code) && reply.lines().next().is_some());
        assert!(bytes.windows(reply.verbatim().len()).any(|window| window == reply.verbatim()));
        for utf8 in [false, true] {
            let shown = reply.clone().into_bytes(utf8);
            let (again, well_formed) = replies(&shown, shown.len());
            assert!(well_formed && again.len() == 1, "one reply is shown as one");
            assert_eq!((again[0].code, again[0].lines().count()), (reply.code, reply.lines().count()));
            assert!(utf8 || shown.iter().all(|b| matches!(b, b'\t' | b'\r' | b'\n' | 0x20..=0x7e)));
        }
    }
});
