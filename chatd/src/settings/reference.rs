//! `docs/configuration.md`, made from the table.

use std::fmt::Write as _;

use super::{
    table::{Row, SECTIONS, TABLE},
    variable,
};

const HEAD: &str = "\
# Configuration

This page is generated from the table in `chatd/src/settings/table.rs` (`cargo xtask generate`).

Settings come from one YAML file (`--config FILE` or `CHATD_CONFIG`), then from the environment,
then from flags; the later ones win. They are checked once, at the start: a wrong file is refused
with every mistake in it, its line and the nearest known key. Every setting can be given as
`--set section.name=value`; some have a flag of their own (`chatd --help`). Lists are written with
commas in variables and flags.

```yaml
data: /var/lib/chatd
listen: 0.0.0.0:7443
auth:
  jwks_url: https://accounts.example.com/jwks.json
  audience: chat
tls:
  certificate: /etc/chatd/tls.crt
  key: /etc/chatd/tls.key
edge:
  max_connections: 200000
```

The node raises its limit of open files to what the system allows; a connection over WebSocket needs
one file.
";

/// The page, in Markdown.
#[must_use]
pub fn reference() -> String {
    let mut page = String::from(HEAD);
    rows(&mut page, TABLE.iter().filter(|row| !row.key.contains('.')));
    for (section, doc) in SECTIONS {
        write!(page, "\n## {section}\n\n{}\n", sentence(doc)).expect("a String takes it");
        let prefix = format!("{section}.");
        rows(
            &mut page,
            TABLE.iter().filter(|row| row.key.starts_with(&prefix)),
        );
    }
    page
}

fn rows<'a>(page: &mut String, rows: impl Iterator<Item = &'a Row>) {
    page.push_str(
        "\n| setting | default | unit | what it may be | |\n| --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let default = if row.default.is_empty() {
            "none".to_owned()
        } else {
            format!("`{}`", row.default)
        };
        writeln!(
            page,
            "| `{}`<br>`{}` | {default} | {} | {} | {} |",
            row.key,
            variable(row),
            row.unit,
            row.bound.shown(""),
            sentence(row.doc)
        )
        .expect("a String takes it");
    }
}

fn sentence(lines: &[&str]) -> String {
    lines
        .iter()
        .map(|line| line.trim())
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}
