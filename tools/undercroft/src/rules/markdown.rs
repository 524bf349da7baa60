//! The catalogue as `docs/rules.md`. Line numbers stay out: they would make the
//! file stale with every edit of the code.

use std::fmt::Write;

use validate::Layer;

use super::text::{about_layer, about_reaction};
use super::{Catalogue, Counts, Entry, Place, Status};

/// Reactions in order of weight.
const REACTIONS: [&str; 9] = [
    "ignore",
    "drop",
    "clamp",
    "throttle",
    "fail",
    "leak",
    "reset",
    "fatal",
    "structural",
];

const HEAD: &str = "\
# Rules for what the host says

<!-- Generated, do not edit: cargo run -p undercroft -- rules --markdown > docs/rules.md -->

Every check of a host byte has an id. The same id is in the code (`Rule::RND_16`),
in the names of its tests (`rnd_16_…`), in the records of a run, and here.
`undercroft rules RND-16` explains one rule without knowledge of VMBus;
`undercroft rules --json` has the lines too.

Every id is in one of these states:

* enforced: code judges the bytes and refuses what breaks the rule, by its id;
* structural: the code is built so that the rule cannot be broken, and tests show
  the property;
* not applicable: the client does not use what the rule speaks of, and another
  rule, which is enforced, refuses it when the host tries;
* rejected: not done on purpose, with the argument;
* not done: open.

The texts are declared in `paravisor/validate/src/rule/`. Code and tests in the
tables below were found in the sources, not written by hand. \"Code\" is where code
names the id; \"see\" is a comment that does, where the code holds the rule without
a refusal. \"Source\" says where the rule was read, or that it is own reasoning.
";

/// The text of `docs/rules.md`.
pub fn markdown(catalogue: &Catalogue) -> String {
    let mut text = HEAD.to_string();
    counts(&mut text, catalogue);
    text.push_str("\n## Reactions\n\n| reaction | when the host breaks the rule |\n|---|---|\n");
    for reaction in REACTIONS {
        let _ = writeln!(text, "| {reaction} | {} |", about_reaction(reaction));
    }
    for layer in Layer::ALL {
        let of_layer = |rule: &&Entry| rule.layer == layer.name() && rule.declaration.is_some();
        let rules: Vec<&Entry> = catalogue.rules.iter().filter(of_layer).collect();
        if !rules.is_empty() {
            table(&mut text, layer.name(), &rules);
        }
    }
    not_done(&mut text, catalogue);
    text
}

fn counts(text: &mut String, catalogue: &Catalogue) {
    text.push_str(
        "\n## Counts\n\n\
         | layer | ids | enforced | structural | not applicable | rejected | not done | with a test | tests |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for layer in Layer::ALL {
        let rules = catalogue.rules.iter().filter(|r| r.layer == layer.name());
        row(text, layer.name(), &Counts::of(rules));
    }
    row(text, "total", &catalogue.counts);
    text.push_str("\nA test that is named after two rules counts once for each.\n");
}

fn row(text: &mut String, name: &str, c: &Counts) {
    let enforced = c.declared - c.structural - c.not_applicable - c.rejected;
    let _ = writeln!(
        text,
        "| {name} | {} | {enforced} | {} | {} | {} | {} | {} | {} |",
        c.ids, c.structural, c.not_applicable, c.rejected, c.not_done, c.tested, c.tests
    );
}

fn table(text: &mut String, layer: &str, rules: &[&Entry]) {
    let _ = writeln!(
        text,
        "\n## {layer}\n\nThe layer is {}.\n\n| id | rule | without it | a malicious host sends | reaction | source | code | tests |\n|---|---|---|---|---|---|---|---|",
        about_layer(layer)
    );
    for rule in rules {
        let Some(said) = &rule.declaration else {
            continue;
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            rule.id,
            cell(said.statement),
            cell(said.danger),
            cell(said.example),
            standing(rule, said.reaction),
            cell(said.source),
            code(rule),
            links(&rule.tests)
        );
    }
}

/// The reaction, or why there is none.
fn standing(rule: &Entry, reaction: &str) -> String {
    let why = cell(rule.why.unwrap_or_default());
    match (rule.status, rule.refused_by) {
        (Status::NotApplicable, Some(by)) => {
            format!("not applicable: {why}; refused by {by} ({reaction})")
        }
        (Status::Rejected, _) => format!("rejected: {why}"),
        (Status::Structural, _) if rule.why.is_some() => format!("{reaction}; no test: {why}"),
        _ => reaction.to_string(),
    }
}

/// A bar would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn code(rule: &Entry) -> String {
    let parts = [links(&rule.enforced), links(&rule.noted)];
    match parts {
        [code, note] if note.is_empty() => code,
        [code, note] if code.is_empty() => format!("see {note}"),
        [code, note] => format!("{code}<br>see {note}"),
    }
}

fn links(places: &[Place]) -> String {
    let mut all: Vec<String> = Vec::new();
    for place in places {
        let name = match place.item {
            "" => place.file.rsplit('/').next().unwrap_or_default(),
            item => item,
        };
        all.push(format!("[`{name}`](../{})", place.file));
    }
    all.join("<br>")
}

fn not_done(text: &mut String, catalogue: &Catalogue) {
    if catalogue.counts.not_done == 0 {
        text.push_str("\n## Not done\n\nNothing: every id has a declaration.\n");
        return;
    }
    let _ = writeln!(
        text,
        "\n## Not done\n\n\
         {} of the {} ids have no declaration: no code holds them under their id.\n",
        catalogue.counts.not_done, catalogue.counts.ids
    );
    let missing = |layer: Layer| {
        let of_layer = move |r: &&Entry| r.layer == layer.name() && r.status == Status::NotDone;
        catalogue.rules.iter().filter(of_layer)
    };
    for layer in Layer::ALL {
        let ids: Vec<&str> = missing(layer).map(|r| r.id).collect();
        if !ids.is_empty() {
            let _ = writeln!(
                text,
                "* {} ({}): {}",
                layer.name(),
                ids.len(),
                ids.join(", ")
            );
        }
    }
    let ahead: Vec<String> = Layer::ALL
        .into_iter()
        .flat_map(missing)
        .filter(|r| !r.tests.is_empty())
        .map(|r| format!("* {}: {}", r.id, links(&r.tests)))
        .collect();
    if !ahead.is_empty() {
        let _ = writeln!(
            text,
            "\nOf these, {} already have tests named after them; the code that the tests look\n\
             at does not carry the id:\n\n{}",
            ahead.len(),
            ahead.join("\n")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::catalogue;

    #[test]
    fn every_id_is_there() {
        let catalogue = catalogue();
        let text = markdown(&catalogue);
        let (tables, rest) = text.split_once("## Not done").expect("a last section");
        for rule in &catalogue.rules {
            let row = format!("\n| {} | ", rule.id);
            let declared = rule.declaration.is_some();
            assert_eq!(tables.contains(&row), declared, "{}", rule.id);
            assert_eq!(rest.contains(rule.id), !declared, "{}", rule.id);
        }
    }

    #[test]
    fn tables_have_as_many_cells_as_their_heads() {
        let text = markdown(&catalogue());
        for line in text.lines().filter(|line| line.starts_with("| ")) {
            let cells = line.replace("\\|", "").matches(" |").count();
            assert!(matches!(cells, 2 | 8 | 9), "{line}");
        }
    }
}
