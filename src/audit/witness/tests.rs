use super::*;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

const TEXT: &str = "mail.example/outbound\n41\nm0vPpRf8AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";

/// A witness that signs what it is given.
struct TestWitness {
    key: Ed25519KeyPair,
    name: &'static str,
}

impl TestWitness {
    fn new(name: &'static str) -> Self {
        let key = Ed25519KeyPair::generate().unwrap();
        Self { key, name }
    }

    fn public(&self) -> WitnessKey {
        let key = self.key.public_key().as_ref().try_into().unwrap();
        WitnessKey {
            name: self.name.into(),
            key,
        }
    }

    fn verifier(&self) -> String {
        let public = self.public();
        let typed = [&[COSIGNATURE][..], &public.key].concat();
        format!(
            "{}+{}+{}",
            self.name,
            data_encoding::HEXLOWER.encode(&public.id()),
            BASE64.encode(&typed)
        )
    }

    fn line(&self, time: u64, text: &str) -> String {
        let signed = format!("cosignature/v1\ntime {time}\n{text}");
        let signature = self.key.sign(signed.as_bytes());
        let blob = [
            &self.public().id()[..],
            &time.to_be_bytes(),
            signature.as_ref(),
        ]
        .concat();
        format!("\u{2014} {} {}\n", self.name, BASE64.encode(&blob))
    }
}

#[test]
fn a_verifier_key_of_a_witness_is_read_and_no_other() {
    let witness = TestWitness::new("witness.example/w1");
    let verifier = witness.verifier();
    assert_eq!(WitnessKey::from_verifier(&verifier), Ok(witness.public()));
    // The key of C2SP signed-note's example is of a log.
    let log = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    let words = WitnessKey::from_verifier(log).unwrap_err();
    assert!(words.contains("kind 1"), "{words}");
    let renamed = verifier.replace("w1+", "w2+");
    for wrong in [
        &renamed[..],
        "",
        "name",
        "name+00000000",
        "name+00000000+BA==",
        &verifier[..60],
    ] {
        assert!(WitnessKey::from_verifier(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_cosignature_counts_only_for_its_text_its_time_and_its_key() {
    let (witness, other) = (TestWitness::new("w"), TestWitness::new("w"));
    let line = witness.line(1_700_000_000, TEXT);
    let lines = other.line(1, TEXT) + &line + "no signature\n";
    let found = witness.public().cosigned(TEXT, &lines).unwrap();
    assert_eq!(found.line, line.trim_end());
    assert_eq!(found.at, UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    assert_eq!(
        witness.public().cosigned(&TEXT.replace("41", "42"), &lines),
        None
    );
    assert_eq!(witness.public().cosigned(TEXT, &other.line(1, TEXT)), None);
    // Another time, beside the old signature.
    let blob = unbase64(line.trim_end().rsplit(' ').next().unwrap()).unwrap();
    let mut later = blob.clone();
    later[11] ^= 1;
    let later = format!("\u{2014} w {}\n", BASE64.encode(&later));
    assert_eq!(witness.public().cosigned(TEXT, &later), None);
    for end in 0..blob.len() {
        let cut = format!("\u{2014} w {}\n", BASE64.encode(&blob[..end]));
        assert_eq!(witness.public().cosigned(TEXT, &cut), None, "{end} octets");
    }
}

#[test]
fn a_question_is_written_as_c2sp_tlog_witness_says() {
    let proof = [Hash([0; 32]), Hash([1; 32])];
    let expected = "old 7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n\nNOTE\n";
    assert_eq!(
        add_checkpoint(7, &proof, "NOTE\n").as_deref(),
        Some(expected)
    );
    assert_eq!(
        add_checkpoint(0, &[], "NOTE\n").as_deref(),
        Some("old 0\n\nNOTE\n")
    );
    assert!(add_checkpoint(7, &[Hash([0; 32]); 63], "").is_some());
    assert!(add_checkpoint(7, &[Hash([0; 32]); 64], "").is_none());
}

#[test]
fn each_answer_of_a_witness_is_understood() {
    let witness = TestWitness::new("w");
    let read = |status, media_type: &str, body: &str| {
        read_answer(status, media_type, body.as_bytes(), TEXT, &witness.public())
    };
    assert!(matches!(
        read(200, "", &witness.line(9, TEXT)),
        Ok(WitnessAnswer::Cosigned(_))
    ));
    let wrong = read(200, "", &witness.line(9, "another\n")).unwrap_err();
    assert_eq!(wrong, "no signature of w is in its answer");
    assert_eq!(
        read(409, SIZE, "20852014\n"),
        Ok(WitnessAnswer::Knows(20_852_014))
    );
    for body in ["", "\n", "-1\n", "+1\n", "1 2\n", "99999999999999999999\n"] {
        assert!(read(409, SIZE, body).is_err(), "{body}");
    }
    for (status, words) in [
        (409, "another root"),
        (403, "log's key"),
        (404, "of this name"),
        (422, "does not go on"),
        (500, "HTTP status 500"),
    ] {
        let said = read(status, "text/plain", "x").unwrap_err();
        assert!(said.contains(words), "{said}");
    }
    assert!(read_answer(200, "", &[0xff], TEXT, &witness.public()).is_err());
}

/// The policy that C2SP tlog-policy has as its example, with keys.
fn example() -> (String, Vec<TestWitness>) {
    let names = ["X1", "X2", "X3", "Y1", "Y2", "Y3"];
    let witnesses = names.map(TestWitness::new);
    let mut text = String::from("# an example\n\nlog mail.example/outbound+00000000+AA==\n");
    for witness in &witnesses {
        text += &format!(
            "witness {} {} https://{}.example/\n",
            witness.name,
            witness.verifier(),
            witness.name
        );
    }
    text += "group X-witnesses 2 X1 X2 X3\n\t group  Y-witnesses any Y1 Y2 Y3 \ngroup X-and-Y all X-witnesses Y-witnesses\nquorum X-and-Y\n";
    (text, witnesses.into())
}

#[test]
fn a_quorum_is_met_by_enough_members_of_each_group() {
    let (text, witnesses) = example();
    let policy = WitnessPolicy::parse(&text).unwrap();
    assert_eq!(policy.witnesses.len(), 6);
    assert_eq!(policy.witnesses[1].key, witnesses[1].public());
    assert_eq!(
        policy.witnesses[1].url.as_deref(),
        Some("https://X2.example/")
    );
    assert!(policy.is_for("mail.example/outbound") && !policy.is_for("mail.example/inbound"));
    let met = |signed: &[usize]| policy.is_met(&|place| signed.contains(&place));
    assert!(met(&[0, 1, 3]) && met(&[1, 2, 5]) && met(&[0, 1, 2, 3, 4, 5]));
    assert!(!met(&[]) && !met(&[0, 1]) && !met(&[0, 3, 4, 5]) && !met(&[3]));
    let single = text.replace("quorum X-and-Y", "quorum Y2");
    let single = WitnessPolicy::parse(&single).unwrap();
    assert!(single.is_met(&|place| place == 4) && !single.is_met(&|place| place != 4));
    let none = WitnessPolicy::parse("quorum none\n").unwrap();
    assert!(none.is_met(&|_| false) && none.is_for("any"));
}

#[test]
fn a_policy_that_means_nothing_is_refused_with_its_line() {
    let witness = TestWitness::new("w");
    let known = format!("witness a {}\n", witness.verifier());
    let wrong = [
        (String::new(), 0, "quorum"),
        (known.clone(), 1, "quorum"),
        (format!("{known}quorum b\n"), 2, "b was not defined"),
        (format!("{known}quorum a\nquorum a\n"), 3, "second"),
        (
            format!("{known}witness b {}\nquorum a\n", witness.verifier()),
            2,
            "earlier witness",
        ),
        (format!("{known}group a all a\nquorum a\n"), 2, "taken"),
        (format!("{known}group none all a\nquorum a\n"), 2, "taken"),
        (format!("{known}group g 2 a\nquorum g\n"), 2, "no number"),
        (format!("{known}group g 0 a\nquorum g\n"), 2, "no number"),
        (format!("{known}group g all a a\nquorum g\n"), 2, "twice"),
        (
            format!("{known}group g any a\ngroup h any a\nquorum g\n"),
            3,
            "twice",
        ),
        (format!("{known}group g any\nquorum a\n"), 2, "neither"),
        (
            format!("group g any a\n{known}quorum a\n"),
            1,
            "not defined",
        ),
        ("witness a b\nquorum none\n".into(), 1, "no verifier key"),
        ("log x\nquorum none\n".into(), 1, "no verifier key"),
        ("quorums none\n".into(), 1, "neither"),
    ];
    for (text, line, words) in wrong {
        let (at, said) = WitnessPolicy::parse(&text).unwrap_err();
        assert!(at == line && said.contains(words), "{text}: {at}: {said}");
    }
}
