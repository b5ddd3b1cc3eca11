//! A part of a database: some schemas or tables, only definitions, only rows, or one table under another name beside the live one. Pure.
//!
//! It works on the table of contents before the plan is made: entries that are not wanted are taken out, and names are replaced where a table gets another
//! one. What belongs to a chosen table comes with it (indexes, constraints, defaults, sequences of its own, privileges, comments); what ties it to other
//! tables does so only where these are chosen too. What is left out although it belongs to a chosen table is listed.
//!
//! Invariants: (1) nothing is kept that is not chosen (`tables_bring_what_is_theirs`); (2) after a renaming no statement names the old table, and nothing is
//! made under a name that the old table's things have (`a_copy_touches_nothing_of_the_original`).

use std::collections::{BTreeMap, BTreeSet};

use super::archive::{DatabaseArchive, LargeObjectPage};
use super::plan::{PlanError, dump_session};
use super::sql::{Token, TokenKind, quote_identifier, quote_literal, tokens};
use super::toc::{Entry, Toc};
use crate::error::Result;
use crate::format::database::{DatabaseInfo, TableInfo};
use crate::format::large_object::LargeObjectInfo;

/// Schema and name.
pub type Name = (Vec<u8>, Vec<u8>);

/// The longest identifier of PostgreSQL.
const IDENTIFIER_BYTES: usize = 63;

/// A name with `*` and `?`; parts in double quotes are taken as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    schema: Option<Vec<Glob>>,
    name: Vec<Glob>,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Glob {
    Byte(u8),
    One,
    Any,
}

/// Why a text is no choice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectionError {
    /// No name, or more than two parts.
    #[error(
        "{0:?} is no name: give NAME or SCHEMA.NAME, in double quotes where it holds a dot, * or ?"
    )]
    Pattern(String),
    /// Nothing in the archive matches.
    #[error("the archived database has no {what} that matches {pattern}")]
    Nothing {
        /// Schema or table.
        what: &'static str,
        /// As given.
        pattern: String,
    },
    /// Only one table can get another name.
    #[error("--as gives one table another name; {0} match")]
    Several(usize),
    /// This kind of table can't be copied.
    #[error("{name} can't be restored under another name: {why}")]
    NoCopy {
        /// The table.
        name: String,
        /// The reason.
        why: &'static str,
    },
}

impl Pattern {
    /// Reads `[schema.]name`.
    pub fn parse(text: &str) -> Result<Self, SelectionError> {
        let wrong = || SelectionError::Pattern(text.to_owned());
        let mut parts = vec![Vec::new()];
        let mut quoted = false;
        let mut bytes = text.bytes().peekable();
        while let Some(byte) = bytes.next() {
            let part = parts.last_mut().ok_or_else(wrong)?;
            match byte {
                b'"' if quoted && bytes.peek() == Some(&b'"') => {
                    bytes.next();
                    part.push(Glob::Byte(b'"'));
                }
                b'"' => quoted = !quoted,
                b'.' if !quoted => parts.push(Vec::new()),
                b'*' if !quoted => part.push(Glob::Any),
                b'?' if !quoted => part.push(Glob::One),
                byte => part.push(Glob::Byte(byte)),
            }
        }
        let whole = !quoted && parts.iter().all(|part| !part.is_empty());
        match (whole, parts.pop(), parts.pop(), parts.is_empty()) {
            (true, Some(name), schema, true) => Ok(Self {
                schema,
                name,
                text: text.to_owned(),
            }),
            _ => Err(wrong()),
        }
    }

    /// Schema and name, of a pattern that is one name.
    pub fn exact(&self) -> Option<(Option<String>, String)> {
        let plain = |globs: &[Glob]| {
            let bytes: Option<Vec<u8>> = globs
                .iter()
                .map(|glob| match glob {
                    Glob::Byte(byte) => Some(*byte),
                    Glob::One | Glob::Any => None,
                })
                .collect();
            String::from_utf8(bytes?).ok()
        };
        let schema = match &self.schema {
            Some(schema) => Some(plain(schema)?),
            None => None,
        };
        Some((schema, plain(&self.name)?))
    }

    fn matches(&self, schema: &[u8], name: &[u8]) -> bool {
        self.schema.as_ref().is_none_or(|globs| glob(globs, schema)) && glob(&self.name, name)
    }
}

fn glob(globs: &[Glob], text: &[u8]) -> bool {
    match (globs.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((Glob::Any, rest)), _) => {
            glob(rest, text)
                || text
                    .split_first()
                    .is_some_and(|(_, text)| glob(globs, text))
        }
        (Some((Glob::One, rest)), Some((_, text))) => glob(rest, text),
        (Some((Glob::Byte(byte), rest)), Some((first, text))) => byte == first && glob(rest, text),
        _ => false,
    }
}

/// What of a database is restored.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only these schemas; all if empty.
    pub schemas: Vec<Pattern>,
    /// Only these tables, views and sequences with what belongs to them; all if empty.
    pub tables: Vec<Pattern>,
    /// The one chosen table gets this schema and name.
    pub rename: Option<(String, String)>,
    /// No rows, no positions of sequences, no large objects.
    pub schema_only: bool,
    /// No definitions: the tables are there.
    pub data_only: bool,
}

impl Selection {
    /// Whether only some schemas or tables are wanted, so that the database may hold others.
    pub fn is_partial(&self) -> bool {
        !self.schemas.is_empty() || !self.tables.is_empty()
    }

    /// Whether everything is wanted.
    pub fn is_all(&self) -> bool {
        !self.is_partial() && !self.schema_only && !self.data_only
    }

    fn wants(&self, schema: &[u8], name: &[u8]) -> bool {
        let in_schema = |pattern: &Pattern| glob(&pattern.name, schema);
        (self.schemas.is_empty() || self.schemas.iter().any(in_schema))
            && (self.tables.is_empty() || self.tables.iter().any(|p| p.matches(schema, name)))
    }

    /// Chooses from a table of contents.
    pub fn apply(&self, toc: Toc) -> std::result::Result<Selected, SelectionFailure> {
        let mut selected = Selected {
            toc,
            relations: Vec::new(),
            schemas: BTreeSet::new(),
            left_out: Vec::new(),
            names: BTreeMap::new(),
        };
        if !self.is_partial() {
            return Ok(selected);
        }
        self.check(&selected.toc)?;
        let kept = if self.tables.is_empty() {
            self.of_schemas(&selected.toc)
        } else {
            self.of_tables(&selected.toc, &mut selected.left_out)
        };
        selected
            .toc
            .entries
            .retain(|entry| kept.contains(&entry.id));
        if let Some(to) = &self.rename {
            selected.rename(to)?;
        }
        for entry in selected.toc.entries.iter().filter(|e| is_relation(e)) {
            selected
                .relations
                .push((name_of(entry), entry.drop.clone().unwrap_or_default()));
            selected.schemas.extend(entry.namespace.clone());
        }
        Ok(selected)
    }

    fn check(&self, toc: &Toc) -> Result<(), SelectionError> {
        let nothing = |what, pattern: &Pattern| SelectionError::Nothing {
            what,
            pattern: pattern.text.clone(),
        };
        for pattern in &self.schemas {
            let found = toc.entries.iter().any(|entry| {
                let namespace = entry.namespace.as_deref().filter(|name| !name.is_empty());
                let of_schema = (entry.kind() == b"SCHEMA").then(|| entry.tag());
                namespace
                    .or(of_schema)
                    .is_some_and(|name| glob(&pattern.name, name))
            });
            if !found {
                return Err(nothing("schema", pattern));
            }
        }
        for pattern in &self.tables {
            let mut relations = toc.entries.iter().filter(|entry| is_relation(entry));
            if !relations.any(|e| pattern.matches(namespace(e), e.tag())) {
                return Err(nothing("table", pattern));
            }
        }
        Ok(())
    }

    /// Whether `ALTER SEQUENCE … OWNED BY schema.table.column` names a chosen table.
    fn owned_by(&self, entry: &Entry) -> bool {
        let sql = entry.definition();
        let all = tokens(sql, true);
        let by = all
            .windows(5)
            .find(|w| w[0].is(sql, "OWNED") && w[1].is(sql, "BY"));
        let names = by.and_then(|by| Some((by[2].identifier(sql)?, by[4].identifier(sql)?)));
        names.is_some_and(|(schema, table)| self.wants(&schema, &table))
    }

    fn of_schemas(&self, toc: &Toc) -> BTreeSet<i32> {
        let chosen = |name: &[u8]| self.schemas.iter().any(|pattern| glob(&pattern.name, name));
        let is_kept = |entry: &&Entry| {
            is_session(entry)
                || chosen_namespace(entry).is_some_and(chosen)
                || entry.kind() == b"SCHEMA" && chosen(entry.tag())
                || entry.tag().strip_prefix(b"SCHEMA ").is_some_and(chosen)
        };
        toc.entries
            .iter()
            .filter(is_kept)
            .map(|entry| entry.id)
            .collect()
    }

    fn of_tables(&self, toc: &Toc, left_out: &mut Vec<String>) -> BTreeSet<i32> {
        let by_id: BTreeMap<i32, &Entry> = toc.entries.iter().map(|e| (e.id, e)).collect();
        let mut kept: BTreeSet<i32> = toc
            .entries
            .iter()
            .filter(|e| is_session(e) || is_relation(e) && self.wants(namespace(e), e.tag()))
            .map(|entry| entry.id)
            .collect();
        let chosen = kept.clone();
        // Sequences of their columns: those that say whose they are, and identities, which are made by altering the table.
        for entry in &toc.entries {
            let of_chosen = entry
                .dependencies
                .iter()
                .any(|id| chosen.contains(id) && is_table(by_id[id]));
            match entry.kind() {
                b"SEQUENCE OWNED BY" if self.owned_by(entry) => {
                    kept.insert(entry.id);
                    kept.extend(entry.dependencies.iter().copied());
                }
                b"SEQUENCE" if of_chosen && entry.definition().starts_with(b"ALTER ") => {
                    kept.insert(entry.id);
                }
                _ => {}
            }
        }
        // What belongs to what is kept: comments of indexes come in a second round.
        for _ in 0..2 {
            for entry in &toc.entries {
                let mut needs = entry
                    .dependencies
                    .iter()
                    .filter_map(|id| by_id.get(id))
                    .peekable();
                let belongs = belongs_to_a_relation(entry)
                    && entry.dependencies.iter().any(|id| kept.contains(id));
                if !belongs || kept.contains(&entry.id) || needs.peek().is_none() {
                    continue;
                }
                let alone = self.rename.is_some()
                    && matches!(
                        entry.kind(),
                        b"TRIGGER"
                            | b"RULE"
                            | b"FK CONSTRAINT"
                            | b"TABLE ATTACH"
                            | b"INDEX ATTACH"
                            | b"PUBLICATION TABLE"
                    );
                let complete = needs.all(|other| !is_relation(other) || kept.contains(&other.id));
                let label = entry.label();
                if alone || !complete {
                    if !left_out.contains(&label) {
                        left_out.push(label);
                    }
                } else {
                    kept.insert(entry.id);
                }
            }
        }
        left_out.retain(|label| {
            !toc.entries
                .iter()
                .any(|e| kept.contains(&e.id) && e.label() == *label)
        });
        kept
    }
}

/// Why nothing can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectionFailure {
    /// The choice does not fit the archive.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// The archive lacks what every one has.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// What was chosen.
#[derive(Clone, Debug)]
pub struct Selected {
    /// The entries.
    pub toc: Toc,
    /// Tables, views and sequences among them, with the statements that drop them.
    pub relations: Vec<(Name, Vec<u8>)>,
    /// Their schemas.
    pub schemas: BTreeSet<Vec<u8>>,
    /// What belongs to a chosen table and does not come along.
    pub left_out: Vec<String>,
    /// New names by old ones.
    names: BTreeMap<Name, Name>,
}

impl Selected {
    /// Gives the one table, and everything that is its own, other names.
    fn rename(&mut self, to: &(String, String)) -> std::result::Result<(), SelectionFailure> {
        let tables: Vec<&Entry> = self.toc.entries.iter().filter(|e| is_table(e)).collect();
        let [table] = tables.as_slice() else {
            return Err(SelectionError::Several(tables.len()).into());
        };
        let standard = dump_session(&self.toc)?.standard_strings;
        let no_copy = |why| SelectionError::NoCopy {
            name: shown(&name_of(table)),
            why,
        };
        let definition = tokens(table.definition(), standard);
        let has = |word: &str| definition.iter().any(|t| t.is(table.definition(), word));
        if table.kind() != b"TABLE" {
            return Err(no_copy("it is no ordinary table").into());
        }
        if has("INHERITS") {
            return Err(no_copy(
                "it inherits from another table, whose rows the copy's would become",
            )
            .into());
        }
        let partitioned = definition
            .windows(2)
            .any(|w| w[0].is(table.definition(), "PARTITION") && w[1].is(table.definition(), "BY"));
        if partitioned {
            return Err(no_copy("it is partitioned; restore its partitions one by one").into());
        }
        let old = name_of(table);
        let new = (to.0.clone().into_bytes(), to.1.clone().into_bytes());
        let mut names = BTreeMap::from([(old.clone(), new.clone())]);
        for entry in &self.toc.entries {
            let own = match entry.kind() {
                b"SEQUENCE" | b"INDEX" | b"STATISTICS" => entry.tag(),
                b"CONSTRAINT" => constraint_name(entry, &old.1),
                _ => continue,
            };
            let taken: BTreeSet<&Vec<u8>> = names.values().map(|(_, name)| name).collect();
            let other = if old.1 == new.1 {
                // Another schema: nothing clashes.
                own.to_vec()
            } else {
                other_name(own, &old.1, &new.1, &taken)
            };
            names.insert((old.0.clone(), own.to_vec()), (new.0.clone(), other));
        }
        for entry in &mut self.toc.entries {
            if is_session(entry) {
                continue;
            }
            let renaming = Renaming {
                names: &names,
                schema: &old.0,
                standard,
            };
            for sql in [&mut entry.definition, &mut entry.drop]
                .into_iter()
                .flatten()
            {
                *sql = renaming.statement(sql);
            }
            let name = name_of(entry);
            if let Some((schema, name)) = names.get(&name) {
                entry.namespace = Some(schema.clone());
                entry.tag = Some(name.clone());
            } else if entry.namespace.as_ref() == Some(&old.0) {
                entry.namespace = Some(new.0.clone());
            }
        }
        self.names = names;
        Ok(())
    }

    /// The archive as far as it was chosen, under its new names.
    pub fn archive<'a>(
        &self,
        inner: &'a dyn DatabaseArchive,
        selection: &Selection,
    ) -> SelectedArchive<'a> {
        let mut info = inner.description().clone();
        let mut originals = BTreeMap::new();
        if selection.schema_only {
            info.tables.clear();
            info.sequences.clear();
        }
        if selection.schema_only || selection.is_partial() {
            info.large_objects = 0;
        }
        if selection.is_partial() {
            let kept: BTreeSet<&Name> = self.relations.iter().map(|(name, _)| name).collect();
            let new = |schema: &str, name: &str| {
                let old = (schema.as_bytes().to_vec(), name.as_bytes().to_vec());
                let new = self.names.get(&old).unwrap_or(&old).clone();
                kept.contains(&new).then_some(new)
            };
            let text = |name: Vec<u8>| String::from_utf8_lossy(&name).into_owned();
            info.tables
                .retain_mut(|table| match new(&table.schema, &table.name) {
                    None => false,
                    Some((schema, name)) => {
                        let old = (table.schema.clone(), table.name.clone());
                        (table.schema, table.name) = (text(schema), text(name));
                        if self.names.is_empty() {
                            return true;
                        }
                        table.load_via = None;
                        originals.insert((table.schema.clone(), table.name.clone()), old);
                        true
                    }
                });
            info.sequences
                .retain_mut(|sequence| match new(&sequence.schema, &sequence.name) {
                    None => false,
                    Some((schema, name)) => {
                        (sequence.schema, sequence.name) = (text(schema), text(name));
                        true
                    }
                });
        }
        SelectedArchive {
            inner,
            info,
            originals,
        }
    }
}

/// An archive that shows what was chosen.
#[derive(Debug)]
pub struct SelectedArchive<'a> {
    inner: &'a dyn DatabaseArchive,
    info: DatabaseInfo,
    /// Old names of tables by new ones.
    originals: BTreeMap<(String, String), (String, String)>,
}

impl DatabaseArchive for SelectedArchive<'_> {
    fn description(&self) -> &DatabaseInfo {
        &self.info
    }

    fn schema_dump(&self) -> Result<Vec<u8>> {
        self.inner.schema_dump()
    }

    fn read_part(
        &self,
        table: &TableInfo,
        part: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let Some((schema, name)) = self
            .originals
            .get(&(table.schema.clone(), table.name.clone()))
        else {
            return self.inner.read_part(table, part, sink);
        };
        let original = TableInfo {
            schema: schema.clone(),
            name: name.clone(),
            ..table.clone()
        };
        self.inner.read_part(&original, part, sink)
    }

    fn large_objects(&self, each: &mut dyn FnMut(LargeObjectInfo) -> Result<()>) -> Result<()> {
        match self.info.large_objects {
            0 => Ok(()),
            _ => self.inner.large_objects(each),
        }
    }

    fn large_object_pages(
        &self,
        each: &mut dyn FnMut(LargeObjectPage<'_>) -> Result<()>,
    ) -> Result<()> {
        match self.info.large_objects {
            0 => Ok(()),
            _ => self.inner.large_object_pages(each),
        }
    }

    fn globals(&self) -> Result<Option<Vec<u8>>> {
        self.inner.globals()
    }
}

fn namespace(entry: &Entry) -> &[u8] {
    entry.namespace.as_deref().unwrap_or_default()
}

fn chosen_namespace(entry: &Entry) -> Option<&[u8]> {
    entry.namespace.as_deref().filter(|name| !name.is_empty())
}

fn name_of(entry: &Entry) -> Name {
    (namespace(entry).to_vec(), entry.tag().to_vec())
}

fn shown((schema, name): &Name) -> String {
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    format!("{}.{}", text(schema), text(name))
}

/// What every restore needs.
fn is_session(entry: &Entry) -> bool {
    matches!(
        entry.kind(),
        b"ENCODING" | b"STDSTRINGS" | b"SEARCHPATH" | b"DATABASE"
    )
}

fn is_table(entry: &Entry) -> bool {
    matches!(
        entry.kind(),
        b"TABLE" | b"FOREIGN TABLE" | b"VIEW" | b"MATERIALIZED VIEW"
    )
}

fn is_relation(entry: &Entry) -> bool {
    is_table(entry) || entry.kind() == b"SEQUENCE"
}

fn belongs_to_a_relation(entry: &Entry) -> bool {
    matches!(
        entry.kind(),
        b"DEFAULT"
            | b"CONSTRAINT"
            | b"CHECK CONSTRAINT"
            | b"FK CONSTRAINT"
            | b"INDEX"
            | b"INDEX ATTACH"
            | b"TABLE ATTACH"
            | b"TRIGGER"
            | b"RULE"
            | b"POLICY"
            | b"ROW SECURITY"
            | b"STATISTICS"
            | b"COMMENT"
            | b"SECURITY LABEL"
            | b"ACL"
            | b"PUBLICATION TABLE"
            | b"MATERIALIZED VIEW DATA"
            | b"STATISTICS DATA"
    )
}

/// The tag of a constraint is the table's name, a space, and its own.
fn constraint_name<'a>(entry: &'a Entry, table: &[u8]) -> &'a [u8] {
    let tag = entry.tag();
    tag.strip_prefix(table)
        .and_then(|rest| rest.strip_prefix(b" "))
        .unwrap_or(tag)
}

/// `t_pkey` of `t` becomes `copy_pkey` of `copy`; what has another beginning gets the new name before its own.
fn other_name(own: &[u8], old: &[u8], new: &[u8], taken: &BTreeSet<&Vec<u8>>) -> Vec<u8> {
    let rest = own.strip_prefix(old).map(<[u8]>::to_vec);
    let rest = rest.unwrap_or_else(|| [b"_", own].concat());
    let cut = |text: &[u8], max: usize| match std::str::from_utf8(text) {
        Ok(text) => {
            let ends = (0..=max.min(text.len())).rev();
            let end = ends.into_iter().find(|end| text.is_char_boundary(*end));
            text.as_bytes()[..end.unwrap_or(0)].to_vec()
        }
        Err(_not_utf8) => text[..max.min(text.len())].to_vec(),
    };
    let mut name = [new, &rest].concat();
    for number in 1_u32.. {
        let short = match number {
            1 if name.len() <= IDENTIFIER_BYTES => name.clone(),
            number => {
                let end = format!("_{number}");
                [cut(&name, IDENTIFIER_BYTES - end.len()), end.into_bytes()].concat()
            }
        };
        if !taken.contains(&short) && short != own {
            name = short;
            break;
        }
    }
    name
}

struct Renaming<'a> {
    names: &'a BTreeMap<Name, Name>,
    /// The old table's schema.
    schema: &'a [u8],
    standard: bool,
}

impl Renaming<'_> {
    /// Replaces qualified names wherever they stand, names of indexes and constraints where only such can stand, and names in the string of `nextval`.
    fn statement(&self, sql: &[u8]) -> Vec<u8> {
        let all = tokens(sql, self.standard);
        let mut renamed = Vec::with_capacity(sql.len());
        let mut copied = 0;
        let mut n = 0;
        while n < all.len() {
            let found = self.qualified(sql, &all[n..]).or_else(|| {
                let one = self
                    .unqualified(sql, &all, n)
                    .or_else(|| self.string(sql, &all, n));
                one.map(|text| (text, 1))
            });
            let Some((text, count)) = found else {
                n += 1;
                continue;
            };
            renamed.extend_from_slice(&sql[copied..all[n].range.start]);
            renamed.extend_from_slice(&text);
            n += count;
            copied = all[n - 1].range.end;
        }
        renamed.extend_from_slice(&sql[copied..]);
        renamed
    }

    fn qualified(&self, sql: &[u8], all: &[Token]) -> Option<(Vec<u8>, usize)> {
        let [schema, dot, name, ..] = all else {
            return None;
        };
        if dot.kind != TokenKind::Symbol(b'.') {
            return None;
        }
        let old = (schema.identifier(sql)?, name.identifier(sql)?);
        let (schema, name) = self.names.get(&old)?;
        let text = [quote_identifier(schema), quote_identifier(name)].join(&b'.');
        Some((text, 3))
    }

    fn unqualified(&self, sql: &[u8], all: &[Token], n: usize) -> Option<Vec<u8>> {
        let name = all[n].identifier(sql)?;
        let (_, new) = self.names.get(&(self.schema.to_vec(), name))?;
        let is =
            |back: usize, word: &str| n.checked_sub(back).is_some_and(|at| all[at].is(sql, word));
        let only_such = is(1, "INDEX")
            || is(1, "CONSTRAINT")
            || is(1, "ON") && is(2, "CLUSTER")
            || is(1, "CONCURRENTLY");
        only_such.then(|| quote_identifier(new))
    }

    fn string(&self, sql: &[u8], all: &[Token], n: usize) -> Option<Vec<u8>> {
        let token = &all[n];
        let before = n.checked_sub(2).map(|at| &all[at])?;
        if token.kind != TokenKind::String || !before.is(sql, "nextval") {
            return None;
        }
        let text = &sql[token.range.clone()];
        let inner = text.strip_prefix(b"'")?.strip_suffix(b"'")?;
        let plain: Vec<u8> = String::from_utf8(inner.to_vec())
            .ok()?
            .replace("''", "'")
            .into_bytes();
        let (renamed, count) = self.qualified(&plain, &tokens(&plain, true))?;
        (count == tokens(&plain, true).len()).then(|| quote_literal(&renamed))
    }
}
