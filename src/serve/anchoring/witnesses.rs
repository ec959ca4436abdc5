//! `--audit-witness`: witnesses that sign a checkpoint if it goes on from the one that they signed before.

use super::Voucher;
use crate::{
    audit::{
        self, AskedVoucher, Checkpoint, CosignedRecord, PolicyWitness, Record, WitnessAnswer,
        WitnessPolicy, add_checkpoint, consistency, read_answer,
    },
    lookup::{HttpQuestion, HttpUrl, Lookup},
};
use std::{path::PathBuf, sync::Arc};
use tokio::task::spawn_blocking;

/// How often a witness is asked for one checkpoint: it may know another size than was thought, once.
const TRIES: usize = 2;

/// One witness that is asked.
pub(super) struct AskedWitness {
    pub(super) lookup: Arc<Lookup>,
    pub(super) ca_file: Option<PathBuf>,
    /// The log's file.
    pub(super) file: PathBuf,
    pub(super) witness: PolicyWitness,
    /// Where it takes checkpoints.
    pub(super) url: HttpUrl,
    /// The size of the last checkpoint that it is known to have signed.
    pub(super) known: u64,
}

impl AskedWitness {
    /// Those witnesses of a policy that have an address.
    pub(super) fn all(
        policy: &WitnessPolicy,
        lookup: &Arc<Lookup>,
        ca_file: Option<&PathBuf>,
        file: &std::path::Path,
    ) -> Vec<Self> {
        let asked = policy.witnesses.iter().filter_map(|witness| {
            let prefix: HttpUrl = witness.url.as_deref()?.parse().ok()?;
            Some(Self {
                lookup: Arc::clone(lookup),
                ca_file: ca_file.cloned(),
                file: file.to_owned(),
                witness: witness.clone(),
                url: prefix.below("add-checkpoint"),
                known: 0,
            })
        });
        asked.collect()
    }

    async fn ask(&mut self, checkpoint: &Checkpoint) -> Result<Record, String> {
        let size = checkpoint.head.size;
        for _ in 0..TRIES {
            if self.known > size {
                // It is asked again the next time: an answer can be wrong.
                let known = std::mem::take(&mut self.known);
                return Err(format!(
                    "it says that it has signed {known} records, and here are {size}: the log was cut, or an older copy was put in its place, or somebody answers for it"
                ));
            }
            match self.answer(checkpoint).await? {
                WitnessAnswer::Knows(known) if known == self.known => break,
                WitnessAnswer::Knows(known) => self.known = known,
                WitnessAnswer::Cosigned(cosignature) => {
                    self.known = size;
                    return Ok(Record::Cosigned(CosignedRecord {
                        size,
                        time: audit::timestamp(cosignature.at),
                        line: cosignature.line,
                    }));
                }
            }
        }
        Err("it knows another size each time that it is asked".into())
    }

    async fn answer(&self, checkpoint: &Checkpoint) -> Result<WitnessAnswer, String> {
        let (file, old, size) = (self.file.clone(), self.known, checkpoint.head.size);
        let proof = spawn_blocking(move || consistency(&file, old, size)).await;
        let proof = proof.map_err(|error| error.to_string())??;
        let body = add_checkpoint(old, &proof, &checkpoint.note).ok_or("the proof is too long")?;
        let question = HttpQuestion {
            media_type: "text/plain; charset=utf-8",
            accept: "text/plain",
            body: body.as_bytes(),
        };
        let roots = super::roots(&self.url, self.ca_file.as_deref())?;
        let answer = self.lookup.post(roots, &self.url, question).await?;
        let key = &self.witness.key;
        read_answer(
            answer.status,
            &answer.media_type,
            &answer.body,
            checkpoint.text(),
            key,
        )
    }
}

impl Voucher for AskedWitness {
    const KIND: &'static str = "cosigned";

    fn asked(&self) -> AskedVoucher {
        AskedVoucher::Witness(Some(self.witness.key.name.clone()))
    }

    async fn vouch(&mut self, checkpoint: &Checkpoint) -> Result<Record, String> {
        let asked = self.ask(checkpoint).await;
        asked.map_err(|words| format!("{} ({}): {words}", self.witness.key.name, self.url))
    }
}
