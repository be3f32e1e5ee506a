//! docs/security.md against the tests: what it lists as tested is, and nothing else.

use std::collections::BTreeSet;
use std::path::Path;

/// RabbitMQ's advisories about its server up to August 2026.
const ADVISORIES: usize = 86;

/// The cells of the rows of the table below a heading that starts so, and the number behind its colon.
fn rows(document: &str, heading: &str) -> (usize, Vec<Vec<String>>) {
    let (_, section) = document.split_once(&format!("### {heading}")).unwrap();
    let section = section.split("\n#").next().unwrap();
    let (title, table) = section.split_once('\n').unwrap();
    let count = title.rsplit_once(": ").unwrap().1.parse().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ["));
    (count, rows.map(|row| row.split(" | ").map(|cell| cell.trim_matches(['|', ' ']).to_owned()).collect()).collect())
}

/// `CVE-2026-57215` from its link.
fn id(cell: &str) -> String {
    cell.strip_prefix('[').and_then(|cell| cell.split_once(']')).unwrap().0.to_owned()
}

/// All tests here that are named by an advisory, as `module::name`.
fn tests() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/advisories");
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let source = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = source.lines().map(str::trim).collect();
        for pair in lines.windows(2).filter(|pair| pair[0] == "#[test]") {
            let name = pair[1].trim_start_matches("fn ").split('(').next().unwrap();
            if name.starts_with("cve_") || name.starts_with("ghsa_") {
                found.insert(format!("{module}::{name}"));
            }
        }
    }
    found
}

#[test]
fn the_document_lists_every_advisory_once_and_every_test_that_there_is() {
    let document = include_str!("../../../docs/security.md");
    let (mut ids, mut total) = (BTreeSet::new(), 0);
    for heading in ["Tested", "To be tested with a part", "Nothing here"] {
        let (count, rows) = rows(document, heading);
        assert_eq!(count, rows.len(), "{heading}");
        assert!(rows.iter().all(|row| row.len() == 3 && row.iter().all(|cell| !cell.is_empty())), "{heading}");
        total += count;
        ids.extend(rows.iter().map(|row| id(&row[0])));
    }
    assert_eq!((ids.len(), total), (ADVISORIES, ADVISORIES));
    let mut listed = BTreeSet::new();
    for row in rows(document, "Tested").1 {
        let test = row[2].trim_matches('`');
        let name = id(&row[0]).to_lowercase().replace('-', "_");
        assert!(test.split("::").nth(1).unwrap().starts_with(&format!("{name}_")), "{test} is no test of {name}");
        listed.insert(test.to_owned());
    }
    assert_eq!(listed, tests());
}
