//! `key list`.

use holdfast::format::key::{KeyKind, SecretSet};
use holdfast::format::node::Timestamp;
use holdfast::store::KeyInfo;
use serde_json::json;

use super::{Context, code, summary};
use crate::cli::args::Key;
use crate::cli::output::{self, Output, Table};
use crate::cli::progress;

/// Shows the keys; no secret of any is read.
pub(super) fn run(context: &Context<'_>, args: &Key) -> anyhow::Result<u8> {
    let Key::List = args;
    let opened = context.repository()?;
    let (keys, damage) = opened.repository.stored_keys()?;
    for damage in &damage {
        progress::warning(&damage.to_string());
    }
    let used = opened.repository.key().name;
    let mut output = Output::new(context.global.json);
    let mut table = Table::new(&["", "id", "kind", "gives", "created", "label"]);
    for info in keys.iter().map(|key| &key.info) {
        let used = info.name == used;
        if output.is_json() {
            output.message("key", &as_json(info, used))?;
        }
        table.row(vec![
            if used { "*".into() } else { String::new() },
            info.name.short(),
            info.kind.name().to_owned(),
            gives(info.secrets).to_owned(),
            output::local_time(created(info)),
            info.label.clone(),
        ]);
    }
    if output.is_json() {
        summary(&mut output, &opened, &json!({"keys": keys.len()}))?;
    } else {
        for line in table.lines() {
            output.line(line)?;
        }
    }
    output.flush()?;
    Ok(code(opened.damaged || !damage.is_empty(), false))
}

fn created(info: &KeyInfo) -> Timestamp {
    Timestamp {
        seconds: info.created,
        nanos: 0,
    }
}

fn gives(secrets: SecretSet) -> &'static str {
    match secrets {
        SecretSet::ALL => "everything",
        SecretSet::WRITE_ONLY => "backup only",
        _ => "a part",
    }
}

fn as_json(info: &KeyInfo, used: bool) -> serde_json::Value {
    let memory_kib = match &info.kind {
        KeyKind::Passphrase { kdf } => Some(kdf.memory_kib),
        _ => None,
    };
    json!({
        "id": info.name.to_string(),
        "kind": info.kind.name(),
        "label": info.label,
        "created": output::rfc3339(created(info)),
        "gives": gives(info.secrets),
        "kdf_memory_kib": memory_kib,
        "in_use": used,
    })
}
