//! `export_definitions` and `import_definitions`, in JSON and TOML.

use std::io::Read;
use std::path::Path;

use super::output::Output;
use super::verb::{Call, Failure, Outcome, Switch, Verb, exit};
use crate::cli::api::{Api, Body, segment};
use crate::definitions::{Algorithm, Document, Target};

const GROUP: &str = "Definitions";
const FORMAT: Switch = Switch::value("format", "FORMAT", "json or toml; else what the file's name says");
const SKIP: Switch = Switch::flag("skip-if-unchanged", "For compatibility: what is the same changes nothing");

pub const VERBS: &[Verb] = &[
    Verb {
        name: "export_definitions",
        arguments: "<file>",
        switches: &[FORMAT],
        group: GROUP,
        about: "Writes all that is defined to a file, or with - to standard output",
        banner: Some(|call| match call.argument(0) {
            "-" => String::new(),
            file => format!("Exporting definitions in {} to a file at \"{file}\" ...", notation(call)),
        }),
        run: |call| {
            let vhost = call.names_vhost().then_some(call.vhost.as_str());
            export(&call.api, vhost, call.argument(0), is_toml(call, call.argument(0)))
        },
    },
    Verb {
        name: "import_definitions",
        arguments: "[<file>]",
        switches: &[FORMAT, SKIP],
        group: GROUP,
        about: "Takes over what a file defines, or what comes by standard input",
        banner: Some(|call| match call.argument(0) {
            "" => "Importing definitions from standard input ...".to_owned(),
            file => format!("Importing definitions in {} from a file at \"{file}\" ...", notation(call)),
        }),
        run: |call| {
            let vhost = call.names_vhost().then_some(call.vhost.as_str());
            import(&call.api, vhost, call.argument(0), is_toml(call, call.argument(0)))
        },
    },
];

fn is_toml(call: &Call, file: &str) -> bool {
    match call.value("format") {
        Some(format) => format.eq_ignore_ascii_case("toml"),
        None => Path::new(file).extension().is_some_and(|extension| extension == "toml"),
    }
}

fn notation(call: &Call) -> &'static str {
    if is_toml(call, call.argument(0)) { "TOML" } else { "JSON" }
}

fn path(vhost: Option<&str>) -> String {
    vhost.map_or("/definitions".to_owned(), |vhost| format!("/definitions/{}", segment(vhost)))
}

/// Writes definitions to a file, or with `-` to standard output.
pub fn export(api: &Api, vhost: Option<&str>, file: &str, as_toml: bool) -> Outcome {
    let json = api.get(&path(vhost))?;
    let text = if as_toml {
        let document =
            Document::from_json(&json.to_string(), Path::new("definitions"), Target::Nowhere, &Algorithm::Sha256);
        let (document, _) = document.map_err(|remarks| Failure::error(exit::SOFTWARE, remarks))?;
        document.to_toml().map_err(|error| Failure::error(exit::DATA, format!("TOML can't say it: {error}")))?
    } else {
        format!("{json:#}\n")
    };
    if file == "-" {
        return Ok(Output::Text(text.trim_end().to_owned()));
    }
    std::fs::write(file, text)
        .map_err(|error| Failure::error(exit::DATA, format!("Could not write to file {file}: {error}")))?;
    Ok(Output::Nothing)
}

/// Sends what is in a file, or what comes by standard input.
pub fn import(api: &Api, vhost: Option<&str>, file: &str, as_toml: bool) -> Outcome {
    let text = if file.is_empty() || file == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| Failure::error(exit::DATA, format!("standard input can't be read: {error}")))?;
        text
    } else {
        std::fs::read_to_string(file)
            .map_err(|error| Failure::error(exit::DATA, format!("Could not read from file {file}: {error}")))?
    };
    if text.trim().is_empty() {
        return Err(Failure::error(exit::DATA, format!("File {file} is zero-sized")));
    }
    let kind = if as_toml { "application/toml" } else { "application/json" };
    api.call("POST", &path(vhost), Body::Text(&text, kind)).map_err(|failure| match failure.status() {
        // All of it was looked at, and none of it is used.
        Some(400) => Failure::error(exit::DATA, failure),
        _ => Failure::from(failure),
    })?;
    Ok(Output::Nothing)
}
