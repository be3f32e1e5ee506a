//! Definitions as JSON and as TOML: read, held against a broker, imported, exported and imported again.
//!
//! Input: in which notation and for which target, and the text.

use super::live::{self, Live, USER};
use leveret::auth::Algorithm;
use leveret::definitions::{Document, Plan, Target, export, import};
use std::path::Path;

pub fn target(data: &[u8]) {
    let Some((which, octets)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(octets) else { return };
    let target = match which >> 1 & 3 {
        0 | 1 => Target::Named,
        2 => Target::Vhost("/"),
        _ => Target::Nowhere,
    };
    let read = if which & 1 == 0 { Document::from_json } else { Document::from_toml };
    let document = match read(text, Path::new("fuzz"), target, &Algorithm::Sha256) {
        Ok((document, warnings)) => {
            assert!(warnings.iter().all(|warning| !warning.to_string().is_empty()));
            document
        }
        Err(remarks) => {
            assert!(!remarks.to_string().is_empty());
            return;
        }
    };
    assert!(!document.summary().is_empty());
    drop(document.to_toml());
    if matches!(target, Target::Nowhere) {
        return;
    }
    live::with(|live| {
        live.renew();
        let plan = Plan::of(&live.broker, &document);
        let taken = put(live, &document);
        assert_eq!(taken.is_ok(), plan.mistakes.is_empty(), "planned: {:?}, done: {taken:?}", plan.mistakes);
        if taken.is_err() {
            return;
        }
        let first = export(&live.broker);
        // Once more changes nothing.
        assert!(Plan::of(&live.broker, &first).steps.is_empty(), "{:?}", Plan::of(&live.broker, &first).steps);
        live.renew();
        let text = first.to_json().to_string();
        let again = Document::from_json(&text, Path::new("exported"), Target::Named, &Algorithm::Sha256);
        let (again, _) = again.unwrap_or_else(|remarks| panic!("an export is refused: {remarks}\n{text}"));
        put(live, &again).unwrap_or_else(|mistakes| panic!("an export is refused: {mistakes:?}\n{text}"));
        let second = export(&live.broker).to_json().to_string();
        assert_eq!(second, text, "what is exported is imported otherwise");
    });
}

fn put(live: &Live, document: &Document) -> Result<(), Vec<String>> {
    let committed = import(&live.broker, document, USER)?;
    live.wait(async {
        for committed in committed {
            committed.await.expect("it is written");
        }
    });
    Ok(())
}
