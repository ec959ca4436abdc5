//! The rules are as good as what they read.

use crate::{
    makes,
    source::{code, modules_used, without_tests},
};

#[test]
fn sees_code_and_not_comments_or_strings() {
    let text = "use a; // tokio\nlet s = \"tokio { \\\" }\"; let c = '\"'; let r = r#\"tokio \"\"#; b<'a>(tokio)";
    let (read, literals) = code(text);
    assert_eq!(read.matches("tokio").count(), 1, "{read}");
    assert!(!read.contains('{'));
    assert_eq!(literals, ["tokio { \\\" }"]);
}

#[test]
fn sees_how_a_proof_is_made_however_it_is_spelled() {
    for made in [
        "let a = Authorised::assertion();",
        "option.map(Authorised::unauthenticated)",
        "return Some(Authorised(()));",
        "f(smtp::Authorised(()), 1)",
        "Answer::Authorised(Authorised { authenticated: true })",
        "use crate::smtp::Authorised as Yes;",
    ] {
        assert!(makes(made, "Authorised"), "{made}");
    }
    for not_made in [
        "Ok(Authorised(())) => {",
        "let (A(Authorised { .. }) | B(Exempted(()))) = permit;",
        "pub struct Authorised {\n    authenticated: bool,\n}",
        "impl Authorised {\n    fn x(&self) {}\n}",
        "Answer::Authorised(answer)",
        "NotAuthorised::assertion()",
    ] {
        assert!(!makes(not_made, "Authorised"), "{not_made}");
    }
}

#[test]
fn leaves_out_tests() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { c.unwrap() } }\nfn d() {}\n#[cfg(test)]\nmod e;\nfn f() {}";
    let kept = without_tests(text);
    assert!(kept.contains("fn d") && kept.contains("fn f"));
    assert!(!kept.contains("unwrap") && !kept.contains("mod e"));
}

#[test]
fn finds_modules_in_groups() {
    let used = modules_used("use crate::{smtp::{Side, Domain}, tls};\ncrate::audit::log();");
    assert_eq!(
        used.into_iter().collect::<Vec<_>>(),
        ["audit", "smtp", "tls"]
    );
}
