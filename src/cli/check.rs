//! `leveret check`: what is wrong with a file, before a broker reads it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::Value as Json;

use super::api::{self, Body, segment};
use crate::config::EXIT_CONFIG;
use crate::config::{Config, Sources};
use crate::definitions::{Algorithm, Document, SECTIONS, Target};
use crate::written::{Remark, Remarks, Tree, read_toml};

/// The broker can't be asked: EX_UNAVAILABLE.
const EXIT_UNREACHABLE: u8 = 69;

/// A running broker to hold definitions against.
#[derive(Debug, Args)]
pub struct Against {
    /// The management API of a running broker, to hold definitions against
    #[arg(long, value_name = "URL")]
    against: Option<String>,
    /// Who asks it
    #[arg(long, env = "LEVERET_USER", value_name = "NAME", requires = "against")]
    user: Option<String>,
    /// The user's password; other users of this machine see flags, but not variables
    #[arg(long, env = "LEVERET_PASSWORD", value_name = "TEXT", hide_env_values = true, requires = "against")]
    password: Option<String>,
    /// The authorities to trust for https, PEM; without it those that this machine trusts
    #[arg(long, env = "LEVERET_CACERT", value_name = "FILE", requires = "against")]
    cacert: Option<PathBuf>,
    /// The virtual host that everything is for, as an export of one virtual host needs
    #[arg(long, value_name = "VHOST", requires = "against")]
    vhost: Option<String>,
    /// Do what the plan says
    #[arg(long, requires = "against")]
    apply: bool,
}

/// Tells about each file what it is and what is wrong with it, and what it would do to a broker.
pub fn run(files: &[PathBuf], against: &Against) -> ExitCode {
    let mut code = 0;
    let mut out = std::io::stdout().lock();
    for path in files {
        let mut report = check(path);
        if !report.is_right {
            code = code.max(EXIT_CONFIG);
        } else if against.against.is_some() && holds_definitions(path) {
            match plan(path, against) {
                Ok(plan) => {
                    report.lines.extend(plan.lines);
                    code = code.max(if plan.is_right { 0 } else { EXIT_CONFIG });
                }
                Err(why) => {
                    report.lines.push(format!("error: {why}"));
                    code = EXIT_UNREACHABLE;
                }
            }
        }
        for line in &report.lines {
            // Whoever stops reading has seen enough; the exit code still tells.
            let _ = writeln!(out, "{line}");
        }
    }
    ExitCode::from(code)
}

/// What a file of definitions would do to a broker; done, if that is asked for.
fn plan(path: &Path, against: &Against) -> Result<Report, String> {
    let target = api::Target {
        url: against.against.clone(),
        user: against.user.clone(),
        password: against.password.clone(),
        cacert: against.cacert.clone(),
        api_section: "default".to_owned(),
        ..api::Target::default()
    };
    let api = target.resolve()?;
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let is_toml = path.extension().is_some_and(|extension| extension == "toml");
    let body = Body::Text(&text, if is_toml { "application/toml" } else { "application/json" });
    let to = against.vhost.as_ref().map_or(String::new(), |vhost| format!("/{}", segment(vhost)));
    let plan =
        api.call("POST", &format!("/definitions{to}?dry_run=true"), body).map_err(|failure| failure.to_string())?;
    let items = |key: &str| plan[key].as_array().cloned().unwrap_or_default();
    let (steps, mistakes) = (items("steps"), items("mistakes"));
    let mut lines: Vec<String> = steps.iter().map(step).collect();
    lines.extend(mistakes.iter().filter_map(Json::as_str).map(|mistake| format!("error: {mistake}")));
    let count = |action: &str| steps.iter().filter(|step| step["action"] == action).count();
    let mut said = format!(
        "{} against {}: {} to create, {} to change, {}, {} unchanged",
        path.display(),
        api.url(),
        count("create"),
        count("change"),
        counted(count("conflict"), "conflict"),
        plan["unchanged"]
    );
    let is_right = mistakes.is_empty() && count("conflict") == 0;
    if against.apply && mistakes.is_empty() {
        api.call("POST", &format!("/definitions{to}"), body).map_err(|failure| failure.to_string())?;
        said += "; applied";
    }
    lines.push(said);
    Ok(Report { lines, is_right })
}

/// A line of a plan: `+` is new, `~` changes, `!` stays as it is although the file says otherwise.
fn step(step: &Json) -> String {
    let text = |key: &str| step[key].as_str().unwrap_or_default();
    let sign = match text("action") {
        "create" => '+',
        "change" => '~',
        _ => '!',
    };
    let place = step["vhost"].as_str().map_or(String::new(), |vhost| format!(" in vhost '{vhost}'"));
    let differences = step["differences"].as_array().into_iter().flatten().map(|difference| {
        let field = difference["field"].as_str().unwrap_or_default();
        let shown = |key: &str| difference.get(key).map_or("nothing".to_owned(), Json::to_string);
        match (difference.get("current"), difference.get("wanted")) {
            // It may be a secret.
            (None, None) => field.to_owned(),
            _ => format!("{field} is {}, wanted {}", shown("current"), shown("wanted")),
        }
    });
    let differences: Vec<_> = differences.collect();
    let why = if differences.is_empty() { String::new() } else { format!(": {}", differences.join("; ")) };
    format!("{sign} {} '{}'{place}{why}", text("kind"), text("name"))
}

/// What is said about a file.
struct Report {
    lines: Vec<String>,
    is_right: bool,
}

fn check(path: &Path) -> Report {
    let (kind, result) = if holds_definitions(path) {
        (
            "definitions",
            Document::read(path, Target::Nowhere, &Algorithm::Sha256)
                .map(|(document, warnings)| (document.summary(), warnings)),
        )
    } else {
        let sources = Sources { file: Some(path.to_owned()), ..Sources::default() };
        ("settings", Config::load(&sources).map(|(_, warnings)| ("ok".to_owned(), warnings)))
    };
    let (summary, Remarks { mistakes, warnings }) = match result {
        Ok((summary, warnings)) => (Some(summary), Remarks { mistakes: Vec::new(), warnings }),
        Err(remarks) => (None, remarks),
    };
    let mut lines = said("error", &mistakes);
    lines.extend(said("warning", &warnings));
    let is_right = summary.is_some();
    let summary = summary.unwrap_or_else(|| counted(mistakes.len(), "error"));
    let warned = if warnings.is_empty() { String::new() } else { format!(", {}", counted(warnings.len(), "warning")) };
    lines.push(format!("{}: {kind}: {summary}{warned}", path.display()));
    Report { lines, is_right }
}

fn said(weight: &str, remarks: &[Remark]) -> Vec<String> {
    remarks.iter().map(|remark| format!("{weight}: {remark}")).collect()
}

fn counted(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

/// Whether a file is meant to hold definitions: JSON always is, and TOML is if it has a section of them. Settings have
/// no list of tables, so that a misspelt section is recognised too.
fn holds_definitions(path: &Path) -> bool {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => true,
        Some("toml") => {
            let root = fs::read_to_string(path).ok().and_then(|text| read_toml(&text, path).ok());
            let Some(Tree::Map(fields)) = root.map(|root| root.tree) else { return false };
            fields.iter().any(|field| {
                let is_list_of_tables = match &field.value.tree {
                    Tree::List(items) => items.iter().any(|item| matches!(item.tree, Tree::Map(_))),
                    _ => false,
                };
                is_list_of_tables || SECTIONS.contains(&field.name.as_str())
            })
        }
        Some("conf") => false,
        _ => {
            fs::read_to_string(path).is_ok_and(|text| text.trim_start_matches('\u{feff}').trim_start().starts_with('{'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, text: &str) -> (Vec<String>, bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        let Report { lines, is_right } = check(&path);
        let plain = format!("{}/", folder.path().display());
        (lines.iter().map(|line| line.replace(&plain, "")).collect(), is_right)
    }

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn a_file_is_recognised_by_its_name_and_what_it_holds() {
        let cases = [
            ("a.toml", "heartbeat = 5", "a.toml: settings: ok"),
            ("a.conf", "heartbeat = 5", "a.conf: settings: ok"),
            ("a.toml", "", "a.toml: settings: ok"),
            ("a.json", "{}", "a.json: definitions: nothing"),
            ("export", " {\"vhosts\": [{\"name\": \"/\"}]}", "export: definitions: 1 vhost"),
            ("a.toml", "[[vhosts]]\nname = '/'", "a.toml: definitions: 1 vhost"),
            ("a.toml", "users = []", "a.toml: definitions: nothing"),
        ];
        for (name, text, said) in cases {
            assert_eq!(report(name, text), (lines(&[said]), true), "{name} {text}");
        }
    }

    #[test]
    fn mistakes_and_warnings_are_listed_and_counted() {
        assert_eq!(
            report("a.toml", "hartbeat = 5\nframe_max = 1"),
            (
                lines(&[
                    "error: a.toml:1: hartbeat: unknown setting (did you mean 'heartbeat'?)",
                    "error: a.toml:2: frame_max: 1 is not a size from 4096 to 134217728 bytes; a unit may \
                     follow, as in \"16 MiB\"",
                    "a.toml: settings: 2 errors",
                ]),
                false
            )
        );
        assert_eq!(
            report("a.conf", "delegate_count = 5"),
            (
                lines(&[
                    "warning: a.conf:1: delegate_count: is not supported; ignored",
                    "a.conf: settings: ok, 1 warning"
                ]),
                true
            )
        );
        assert_eq!(
            report("a.toml", "[[quues]]\nname = 'q'"),
            (
                lines(&[
                    "error: a.toml:1: quues: unknown field (did you mean 'queues'?)",
                    "a.toml: definitions: 1 error"
                ]),
                false
            )
        );
    }

    #[test]
    fn an_export_of_one_virtual_host_is_right_by_itself() {
        let text = r#"{"rabbitmq_definition_format": "single_virtual_host", "queues": [{"name": "q"}]}"#;
        assert_eq!(report("v.json", text), (lines(&["v.json: definitions: 1 queue"]), true));
    }
}
