//! docs/reliability.md against the source: the tests that it names are there, and all ideas have a row.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const PAGE: &str = include_str!("../../docs/reliability.md");

/// How many ideas each group has.
const GROUPS: [(&str, usize); 14] = [
    ("P", 24),
    ("A", 13),
    ("D", 12),
    ("C", 10),
    ("R", 18),
    ("M", 11),
    ("F", 8),
    ("Q", 3),
    ("O", 8),
    ("X", 8),
    ("H", 11),
    ("S", 14),
    ("TLS", 5),
    ("Z", 4),
];

/// What stands between single backticks.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with("```")).flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Where a file is that the page names: below `tests/it`, unless its path says otherwise.
fn file(path: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    [root.join("tests/it").join(path), root.join(path)].into_iter().find(|path| path.is_file())
}

/// Whether a source has a test of this name: a function, or what a script of another language calls it.
fn has_test(path: &Path, source: &str, name: &str) -> bool {
    match path.extension().and_then(|kind| kind.to_str()) {
        Some("rs") => source.contains(&format!("fn {name}(")),
        _ => ['"', '\''].iter().any(|quote| source.contains(&format!("{quote}{name}{quote}"))),
    }
}

#[test]
fn what_the_pages_name_is_there() {
    let mut wrong = Vec::new();
    let mut tests = BTreeSet::new();
    for span in spans(PAGE) {
        let is_source = |path: &str| [".rs", ".py", ".js"].iter().any(|end| path.ends_with(end));
        let (path, name) = match span.split_once("::") {
            Some((path, name)) if is_source(path) => (path, Some(name)),
            None if is_source(span) && span.contains('/') || span.starts_with("tests/") => (span, None),
            _ => continue,
        };
        let Some(found) = file(path.trim_end_matches('/')) else {
            if !Path::new(env!("CARGO_MANIFEST_DIR")).join(path).is_dir() {
                wrong.push(format!("{path} is not there"));
            }
            continue;
        };
        let Some(name) = name else { continue };
        if !has_test(&found, &std::fs::read_to_string(&found).unwrap(), name) {
            wrong.push(format!("{path} has no test {name}"));
        }
        tests.insert(span);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tests.len() > 200, "only {} tests are named: is the page read right?", tests.len());
}

/// The first and the last cell of each row that stands for an idea.
fn ideas() -> Vec<(&'static str, &'static str)> {
    let (_, section) = PAGE.split_once("## Mistakes that others made").unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let cells = rows.filter_map(|row| Some((row.split_once(" | ")?.0, row.rsplit_once(" | ")?.1)));
    cells.filter(|(id, _)| id.ends_with(|letter: char| letter.is_ascii_digit())).collect()
}

#[test]
fn every_idea_has_its_row_and_the_sums_are_right() {
    let ideas = ideas();
    // Recovery counts from 0.
    let expected: Vec<String> = GROUPS
        .iter()
        .flat_map(|(group, count)| {
            let first = usize::from(*group != "R");
            (first..first + count).map(move |number| format!("{group}{number}"))
        })
        .collect();
    assert_eq!(ideas.iter().map(|(id, _)| *id).collect::<Vec<_>>(), expected);
    assert_eq!(expected.len(), 149);
    let marked = |mark: &str| ideas.iter().filter(|(_, tests)| tests.contains(mark)).count();
    let not_here = marked("*not here*");
    let tested = ideas.len() - not_here;
    for (id, tests) in &ideas {
        let names_one = spans(tests).any(|span| span.contains("::") || span.starts_with("tests/scripts/"));
        assert!(names_one || tests.starts_with("*not here*"), "{id}: {tests}");
    }
    let sums = format!("{tested} are tested, {not_here} can't happen here.");
    assert!(PAGE.split_whitespace().collect::<Vec<_>>().join(" ").contains(&sums), "the page should say: {sums}");
}
