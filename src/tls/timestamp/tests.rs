//! Tokens are made by `openssl ts`, from Debian's package `openssl`.

use super::*;
use crate::{clock, tls::tests::pki::Scratch};
use std::{fs, path::Path, process::Command};

const TEXT: &[u8] = b"mail.example/outbound\n41\nroot\n";
const RANDOM: [u8; 8] = [0xff, 2, 3, 4, 5, 6, 7, 8];

fn run(dir: &Path, arguments: &[&str]) -> bool {
    Command::new("openssl")
        .args(arguments)
        .current_dir(dir)
        .output()
        .expect("these tests need the program `openssl`: apt-get install openssl")
        .status
        .success()
}

fn openssl(dir: &Path, arguments: &str) {
    let list: Vec<&str> = arguments.split(' ').collect();
    assert!(run(dir, &list), "openssl {arguments}");
}

/// An authority for time-stamps, and the certificate authority above it.
struct TestTsa {
    dir: Scratch,
}

impl TestTsa {
    /// `kind`: the arguments that make its key. `days`: how long its certificate holds; `usage`: its extended key usage.
    fn new(kind: &str, digest: &str, usage: &str) -> Self {
        let dir = Scratch::new();
        let folder = &dir.0;
        dir.write("extensions", format!("extendedKeyUsage=critical,{usage}\n"));
        dir.write(
            "ts.cnf",
            format!(
                "[tsa]\ndefault_tsa = one\n[one]\nserial = serial\nsigner_cert = tsa.pem\nsigner_key = tsa.key\n\
                 default_policy = 1.2.3.4\ndigests = sha256, sha512\nsigner_digest = {digest}\naccuracy = secs:1, millisecs:500\n\
                 clock_precision_digits = 3\nordering = yes\ntsa_name = yes\ness_cert_id_chain = no\n"
            ),
        );
        dir.write("serial", "01\n");
        openssl(
            folder,
            "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out ca.key",
        );
        openssl(
            folder,
            "req -x509 -new -key ca.key -out ca.pem -days 3650 -subj /CN=Root -addext keyUsage=critical,keyCertSign",
        );
        openssl(folder, &format!("genpkey {kind} -out tsa.key"));
        openssl(
            folder,
            "req -new -key tsa.key -out tsa.csr -subj /CN=Stamps",
        );
        let tsa = Self { dir };
        tsa.certify(365);
        tsa
    }

    /// Makes the authority's certificate, with the extensions that are in the file.
    fn certify(&self, days: i32) {
        openssl(
            &self.dir.0,
            &format!(
                "x509 -req -in tsa.csr -CA ca.pem -CAkey ca.key -set_serial 77 -days {days} -extfile extensions -out tsa.pem"
            ),
        );
    }

    fn certificate(&self) -> Vec<u8> {
        openssl(&self.dir.0, "x509 -in tsa.pem -outform DER -out tsa.der");
        fs::read(self.dir.0.join("tsa.der")).unwrap()
    }

    fn ec() -> Self {
        Self::new(
            "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
            "sha256",
            "timeStamping",
        )
    }

    fn answer(&self, request: &StampRequest) -> Vec<u8> {
        self.dir.write("request", request.der());
        let folder = &self.dir.0;
        openssl(
            folder,
            "ts -reply -config ts.cnf -section one -queryfile request -out reply",
        );
        fs::read(folder.join("reply")).unwrap()
    }

    fn authorities(&self) -> Vec<Vec<u8>> {
        openssl(&self.dir.0, "x509 -in ca.pem -outform DER -out ca.der");
        vec![fs::read(self.dir.0.join("ca.der")).unwrap()]
    }
}

fn sha256(text: &[u8]) -> [u8; 32] {
    digest(&SHA256, text).as_ref().try_into().unwrap()
}

fn request() -> StampRequest {
    StampRequest::new(sha256(TEXT), RANDOM)
}

#[test]
fn tokens_of_openssl_are_believed_whatever_key_made_them() {
    const KINDS: [(&str, &str); 6] = [
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:2048", "sha256"),
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:2048", "sha512"),
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:3072", "sha384"),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-256", "sha256"),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-384", "sha384"),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-521", "sha512"),
    ];
    for (kind, digest) in KINDS {
        let tsa = TestTsa::new(kind, digest, "timeStamping");
        let before = clock::wall();
        let answer = tsa.answer(&request());
        let stamp = request().token_in(&answer).unwrap();
        assert!(
            stamp.at() + Duration::from_secs(1) > before && stamp.at() <= clock::wall(),
            "{kind}"
        );
        assert_eq!(stamp.imprint, sha256(TEXT));
        assert_eq!(
            stamp.proved_by(&tsa.authorities()).unwrap(),
            "CN=Stamps",
            "{kind} {digest}"
        );
        let token = stamp.token.to_vec();
        assert_eq!(StampToken::read(&token).unwrap().imprint, sha256(TEXT));
        // What is kept is what OpenSSL verifies.
        let dir = &tsa.dir;
        dir.write("token", &token);
        dir.write("text", TEXT);
        openssl(
            &dir.0,
            "ts -verify -data text -in token -token_in -CAfile ca.pem",
        );
    }
}

#[test]
fn openssl_reads_the_request_as_it_is_meant() {
    let dir = Scratch::new();
    dir.write("request", request().der());
    openssl(&dir.0, "ts -query -in request -text -out text");
    let text = fs::read_to_string(dir.0.join("text")).unwrap();
    for line in [
        "Version: 1",
        "Hash Algorithm: sha256",
        "Nonce: 0x7F02030405060708",
        "Certificate required: yes",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn an_answer_to_another_question_is_refused() {
    let tsa = TestTsa::ec();
    let answer = tsa.answer(&request());
    let of_other_text = StampRequest::new(sha256(b"another"), RANDOM);
    let words = of_other_text.token_in(&answer).unwrap_err();
    assert!(words.contains("something else"), "{words}");
    let of_other_time = StampRequest::new(sha256(TEXT), [7; 8]);
    let words = of_other_time.token_in(&answer).unwrap_err();
    assert!(words.contains("another time"), "{words}");
}

#[test]
fn a_refusal_is_told_in_the_words_of_the_authority() {
    let tsa = TestTsa::ec();
    // SHA-1 is not among the digests that this authority takes.
    let folder = &tsa.dir.0;
    tsa.dir.write("text", TEXT);
    openssl(folder, "ts -query -data text -sha1 -out request");
    openssl(
        folder,
        "ts -reply -config ts.cnf -section one -queryfile request -out reply",
    );
    let words = request()
        .token_in(&fs::read(folder.join("reply")).unwrap())
        .unwrap_err();
    assert!(
        words.starts_with("the authority refuses (status 2): "),
        "{words}"
    );
    assert!(words.contains("algorithm"), "{words}");
}

#[test]
fn no_octet_of_an_answer_can_be_changed_and_nothing_is_taken_for_an_answer() {
    let tsa = TestTsa::ec();
    let answer = tsa.answer(&request());
    let authorities = tsa.authorities();
    let believed = |octets: &[u8]| {
        let stamp = request().token_in(octets).ok()?;
        stamp.proved_by(&authorities).ok()?;
        Some((stamp.at(), stamp.imprint))
    };
    let truth = believed(&answer);
    assert!(truth.is_some());
    for at in 0..answer.len() {
        let mut changed = answer.clone();
        changed[at] ^= 1;
        let found = believed(&changed);
        assert!(found.is_none() || found == truth, "octet {at}");
        assert_eq!(believed(&answer[..at]), None, "{at} octets");
    }
    for garbage in [
        &b""[..],
        b"<html>busy</html>",
        &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
        &[0x30, 0],
    ] {
        let words = request().token_in(garbage).unwrap_err();
        assert!(words.contains("no time-stamp response"), "{words}");
    }
}

#[test]
fn a_time_is_not_proved_by_another_authority() {
    let tsa = TestTsa::ec();
    let answer = tsa.answer(&request());
    let stamp = request().token_in(&answer).unwrap();
    let other = TestTsa::ec();
    let words = stamp.proved_by(&other.authorities()).unwrap_err();
    assert!(
        words.contains("CN=Stamps") && words.contains("proves nothing"),
        "{words}"
    );
    assert!(stamp.proved_by(&[]).is_err());
}

#[test]
fn a_certificate_that_had_ended_when_it_signed_proves_no_time() {
    let tsa = TestTsa::ec();
    let answer = tsa.answer(&request());
    let stamp = request().token_in(&answer).unwrap();
    let authorities = tsa.authorities();
    for days in [-1, 366] {
        let stamp = StampToken {
            at: stamp.at + days * 86_400,
            ..stamp
        };
        let words = stamp.proved_by(&authorities).unwrap_err();
        assert!(words.contains("Cert"), "{words}");
    }
}

#[test]
fn a_certificate_for_another_use_proves_no_time() {
    let tsa = TestTsa::ec();
    let answer = tsa.answer(&request());
    let content = request().token_in(&answer).unwrap().content.to_vec();
    tsa.dir.write("content", content);
    let proved = |usage: &str| {
        tsa.dir
            .write("extensions", format!("extendedKeyUsage=critical,{usage}\n"));
        tsa.certify(365);
        // The same statement, signed by whoever has such a certificate.
        openssl(
            &tsa.dir.0,
            "cms -sign -binary -nodetach -cades -econtent_type 1.2.840.113549.1.9.16.1.4 -in content -signer tsa.pem -inkey tsa.key -outform DER -out token",
        );
        let token = fs::read(tsa.dir.0.join("token")).unwrap();
        let stamp = StampToken::read(&token).unwrap();
        // The certificate may be a second younger than the statement.
        let at = stamp.at + 60;
        StampToken { at, ..stamp }.proved_by(&tsa.authorities())
    };
    assert_eq!(proved("timeStamping").unwrap(), "CN=Stamps");
    for usage in ["serverAuth", "timeStamping,serverAuth"] {
        let words = proved(usage).unwrap_err();
        assert!(words.contains("not meant for time-stamps only"), "{words}");
    }
}

#[test]
fn a_token_that_is_signed_in_an_unknown_way_is_neither_good_nor_wrong() {
    let tsa = TestTsa::ec();
    let answer = tsa.answer(&request());
    let token = request().token_in(&answer).unwrap().token.to_vec();
    let fault = |token: &[u8]| StampToken::read(token).unwrap().check_signature();
    assert_eq!(fault(&token), Ok(()));
    let changed = |object: &[u8], to: u8| {
        let mut token = token.clone();
        let at = memchr::memmem::rfind(&token, object).unwrap();
        token[at + object.len() - 1] = to;
        token
    };
    // ecdsa-with-SHA256 becomes one that does not exist, SHA-256 becomes SHA3-256.
    let ecdsa = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let sha256 = [SHA2, &[1]].concat();
    for (token, words) in [
        (changed(&ecdsa, 9), "with an algorithm"),
        (changed(&sha256, 8), "not of SHA-2"),
    ] {
        let Err(StampFault::Unknown(why)) = fault(&token) else {
            panic!("{words}")
        };
        assert!(why.contains(words), "{why}");
        assert!(
            StampToken::read(&token)
                .unwrap()
                .proved_by(&tsa.authorities())
                .is_err()
        );
    }
    // Another algorithm that is known has not made it.
    let Err(StampFault::Wrong(_)) = fault(&changed(&ecdsa, 3)) else {
        panic!("ecdsa-with-SHA384")
    };
}

#[test]
fn another_certificate_of_the_same_key_is_not_that_of_the_signer() {
    let tsa = TestTsa::ec();
    let answer = tsa.answer(&request());
    let stamp = request().token_in(&answer).unwrap();
    assert!(stamp.proved_by(&tsa.authorities()).is_ok());
    let own = tsa.certificate();
    tsa.dir
        .write("extensions", "extendedKeyUsage=critical,clientAuth\n");
    tsa.certify(365);
    let other = tsa.certificate();
    assert_eq!(own.len(), other.len());
    let at = memchr::memmem::find(&answer, &own).unwrap();
    let mut replaced = answer.clone();
    replaced[at..at + own.len()].copy_from_slice(&other);
    let words = request().token_in(&replaced).unwrap_err();
    assert!(words.contains("does not bring the certificate"), "{words}");
}
