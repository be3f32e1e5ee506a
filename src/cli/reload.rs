//! `leveret reload`: a running broker reads its certificates and the level of its logs again.

use std::process::ExitCode;

use serde_json::Value as Json;

use super::api::{Body, Failure, Target};

/// Something was wrong with what was to be read: EX_CONFIG of sysexits.h.
const EXIT_MISTAKES: u8 = 78;
/// The broker can't be reached: EX_UNAVAILABLE.
const EXIT_UNREACHABLE: u8 = 69;
/// The broker does not let this user: EX_NOPERM.
const EXIT_REFUSED: u8 = 77;

pub fn run(target: &Target) -> ExitCode {
    let api = match target.resolve() {
        Ok(api) => api,
        Err(why) => {
            eprintln!("leveret: {why}");
            return ExitCode::from(EXIT_MISTAKES);
        }
    };
    let said = match api.call("POST", "/reload", Body::None) {
        Ok(said) => said,
        Err(failure) => {
            eprintln!("leveret: {failure}");
            return ExitCode::from(match failure {
                Failure::Unreachable(_) | Failure::Late(_) => EXIT_UNREACHABLE,
                Failure::Refused { .. } => EXIT_REFUSED,
            });
        }
    };
    let lines = |key: &str| said[key].as_array().into_iter().flatten().filter_map(Json::as_str).collect::<Vec<_>>();
    for line in lines("reloaded") {
        println!("{line}");
    }
    let mistakes = lines("mistakes");
    for line in &mistakes {
        eprintln!("leveret: {line}");
    }
    if mistakes.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_MISTAKES) }
}
