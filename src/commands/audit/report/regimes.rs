//! All regimes that the page knows.

mod bsi;
mod datatilsynet;
mod gdpr;
mod hipaa;
mod nis2;
mod nta;
mod pci;

use super::regime::Regime;

/// In the order of the page.
static ALL: [&Regime; 7] = [
    &hipaa::HIPAA,
    &pci::PCI,
    &nis2::NIS2,
    &gdpr::GDPR,
    &bsi::BSI,
    &datatilsynet::DATATILSYNET,
    &nta::NTA,
];

/// The regimes that a list such as `hipaa,gdpr` names, in the order of the page; all where there is none.
///
/// # Errors
/// Names the word that is no regime.
pub(super) fn named(list: Option<&str>) -> Result<Vec<&'static Regime>, String> {
    let Some(list) = list else {
        return Ok(ALL.to_vec());
    };
    let words: Vec<&str> = list.split(',').map(str::trim).collect();
    let is_known = |word: &&&str| ALL.iter().any(|one| one.word == **word);
    if let Some(unknown) = words.iter().find(|word| !is_known(word)) {
        let known: Vec<&str> = ALL.iter().map(|one| one.word).collect();
        return Err(format!(
            "{unknown:?} is no regime; there are {}",
            known.join(", ")
        ));
    }
    let chosen = ALL.iter().filter(|one| words.contains(&one.word));
    Ok(chosen.copied().collect())
}
