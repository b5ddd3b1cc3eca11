//! Restores large objects: all are created, then their pages are written, then they get comments, owners and privileges.
//!
//! It works in batches, each one transaction; a batch that fails is done again object by object, so that one bad object is reported alone. Holes stay
//! holes: only stored pages are written.

use std::collections::BTreeSet;

use super::archive::{DatabaseArchive, LargeObjectPage};
use super::error::RestoreError;
use super::report::{Phase, Recorder};
use super::sql::{quote_identifier, quote_literal};
use crate::error::Error;
use crate::format::large_object::LargeObjectInfo;
use crate::source::postgres::{PgError, PgSession};

const OBJECTS_PER_BATCH: usize = 500;
const BYTES_PER_BATCH: usize = 1 << 20;
const PUT: &str = "SELECT pg_catalog.count(pg_catalog.lo_put(u.l, u.o, u.d)) FROM ROWS FROM \
    (pg_catalog.unnest($1::pg_catalog.oid[]), pg_catalog.unnest($2::pg_catalog.int8[]), pg_catalog.unnest($3::pg_catalog.bytea[])) AS u(l, o, d)";
const CREATE: &str = "SELECT pg_catalog.count(pg_catalog.lo_create(l)) FROM pg_catalog.unnest($1::pg_catalog.oid[]) AS l";

/// Runs `work` inside a callback of the archive and keeps our error apart from the archive's.
fn through<T>(
    kept: &mut Option<RestoreError>,
    work: Result<T, RestoreError>,
) -> crate::error::Result<T> {
    work.map_err(|error| {
        *kept = Some(error);
        Error::Stopped
    })
}

fn finish(
    kept: Option<RestoreError>,
    result: crate::error::Result<()>,
) -> Result<(), RestoreError> {
    match (kept, result) {
        (Some(ours), _) => Err(ours),
        (None, result) => result.map_err(RestoreError::Archive),
    }
}

/// Restores all large objects of the archive; the count goes to the report.
pub(crate) fn restore(
    archive: &dyn DatabaseArchive,
    session: &mut PgSession,
    options: Options,
    recorder: &Recorder,
) -> Result<(), RestoreError> {
    let mut restore = Restore {
        session,
        options,
        recorder,
        failed: BTreeSet::new(),
        created: 0,
    };
    restore.each_batch(archive, Restore::create)?;
    restore.pages(archive)?;
    restore.each_batch(archive, Restore::describe)?;
    let restored = restore
        .created
        .saturating_sub(u64::try_from(restore.failed.len()).unwrap_or(u64::MAX));
    recorder.report().large_objects = restored;
    Ok(())
}

/// What is left out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) no_owner: bool,
    pub(crate) no_privileges: bool,
}

struct Restore<'a> {
    session: &'a mut PgSession,
    options: Options,
    recorder: &'a Recorder,
    failed: BTreeSet<u32>,
    created: u64,
}

impl Restore<'_> {
    fn each_batch(
        &mut self,
        archive: &dyn DatabaseArchive,
        work: fn(&mut Self, &[LargeObjectInfo]) -> Result<(), RestoreError>,
    ) -> Result<(), RestoreError> {
        let mut kept = None;
        let mut batch = Vec::new();
        let read = archive.large_objects(&mut |object| {
            batch.push(object);
            if batch.len() < OBJECTS_PER_BATCH {
                return Ok(());
            }
            let done = through(&mut kept, work(self, &batch));
            batch.clear();
            done
        });
        finish(kept, read)?;
        if batch.is_empty() {
            Ok(())
        } else {
            work(self, &batch)
        }
    }

    fn create(&mut self, batch: &[LargeObjectInfo]) -> Result<(), RestoreError> {
        self.recorder.check_interrupt()?;
        let oids: Vec<u32> = batch.iter().map(|object| object.oid).collect();
        self.created += u64::try_from(oids.len()).unwrap_or(u64::MAX);
        match self.session.query_one(CREATE, &[&oids]) {
            Ok(_count) => Ok(()),
            Err(error) if error.server_error().is_none() => Err(error.into()),
            Err(_one_of_them) => {
                for oid in oids {
                    let result = self
                        .session
                        .query_one(CREATE, &[&vec![oid]])
                        .map(|_count| ());
                    self.judge(oid, result)?;
                }
                Ok(())
            }
        }
    }

    fn judge(&mut self, oid: u32, result: Result<(), PgError>) -> Result<(), RestoreError> {
        let Err(error) = result else { return Ok(()) };
        if self.failed.insert(oid) {
            return self.recorder.refused(
                Phase::LargeObjects,
                format!("large object {oid}"),
                error,
            );
        }
        if error.server_error().is_some() {
            Ok(())
        } else {
            Err(error.into())
        }
    }

    fn pages(&mut self, archive: &dyn DatabaseArchive) -> Result<(), RestoreError> {
        let mut kept = None;
        let mut runs = Runs::default();
        let read = archive.large_object_pages(&mut |page| {
            runs.push(page);
            if runs.bytes < BYTES_PER_BATCH {
                return Ok(());
            }
            let done = through(&mut kept, self.put(&runs));
            runs = Runs::default();
            done
        });
        finish(kept, read)?;
        self.put(&runs)
    }

    fn put(&mut self, runs: &Runs) -> Result<(), RestoreError> {
        self.recorder.check_interrupt()?;
        if runs.oids.is_empty() {
            return Ok(());
        }
        match self
            .session
            .query_one(PUT, &[&runs.oids, &runs.offsets, &runs.data])
        {
            Ok(_count) => Ok(()),
            Err(error) if error.server_error().is_none() => Err(error.into()),
            Err(_one_of_them) => {
                for (n, oid) in runs.oids.iter().enumerate() {
                    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
                        [&vec![*oid], &vec![runs.offsets[n]], &vec![&runs.data[n]]];
                    let result = self.session.query_one(PUT, &parameters).map(|_count| ());
                    self.judge(*oid, result)?;
                }
                Ok(())
            }
        }
    }

    fn describe(&mut self, batch: &[LargeObjectInfo]) -> Result<(), RestoreError> {
        self.recorder.check_interrupt()?;
        let options = self.options;
        let statements: Vec<(u32, String)> = batch
            .iter()
            .map(|object| (object.oid, description(object, options)))
            .filter(|(_, sql)| !sql.is_empty())
            .collect();
        let all: String = statements.iter().map(|(_, sql)| sql.as_str()).collect();
        match self.session.batch_execute(&all) {
            Ok(()) => Ok(()),
            Err(error) if error.server_error().is_none() => Err(error.into()),
            Err(_one_of_them) => {
                self.session.batch_execute("RESET SESSION AUTHORIZATION")?;
                for (oid, sql) in statements {
                    let result = self.session.batch_execute(&sql);
                    self.judge(oid, result)?;
                }
                Ok(())
            }
        }
    }
}

/// Pages put together to runs without holes, so that fewer calls write them.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    pub(crate) oids: Vec<u32>,
    pub(crate) offsets: Vec<i64>,
    pub(crate) data: Vec<Vec<u8>>,
    pub(crate) bytes: usize,
    end: u64,
}

impl Runs {
    pub(crate) fn push(&mut self, page: LargeObjectPage<'_>) {
        self.bytes += page.data.len();
        match self.data.last_mut() {
            Some(data) if self.oids.last() == Some(&page.oid) && self.end == page.offset => {
                data.extend_from_slice(page.data)
            }
            _ => {
                self.oids.push(page.oid);
                // An object ends below 4 TiB, so its offsets fit.
                self.offsets
                    .push(i64::try_from(page.offset).unwrap_or(i64::MAX));
                self.data.push(page.data.to_vec());
            }
        }
        self.end = page
            .offset
            .saturating_add(u64::try_from(page.data.len()).unwrap_or(u64::MAX));
    }
}

fn quoted(name: &str) -> String {
    String::from_utf8_lossy(&quote_identifier(name.as_bytes())).into_owned()
}

/// Statements for comment, privileges and owner of one object.
pub(crate) fn description(object: &LargeObjectInfo, options: Options) -> String {
    let mut sql = comment(object).unwrap_or_default();
    if !options.no_owner {
        let owner = quoted(&object.owner);
        sql.push_str(&format!(
            "ALTER LARGE OBJECT {} OWNER TO {owner};\n",
            object.oid
        ));
    }
    sql.push_str(&privileges(object, options).unwrap_or_default());
    sql
}

/// The statement for the comment of one object, if it has one.
pub(crate) fn comment(object: &LargeObjectInfo) -> Option<String> {
    let comment = quote_literal(object.comment.as_ref()?.as_bytes());
    let comment = String::from_utf8_lossy(&comment).into_owned();
    let oid = object.oid;
    Some(format!("COMMENT ON LARGE OBJECT {oid} IS {comment};\n"))
}

/// Statements for the privileges of one object, if they are not the owner's alone.
pub(crate) fn privileges(object: &LargeObjectInfo, options: Options) -> Option<String> {
    let oid = object.oid;
    let acl = object.acl.as_ref().filter(|_| !options.no_privileges)?;
    let owner = if options.no_owner {
        "CURRENT_USER".to_owned()
    } else {
        quoted(&object.owner)
    };
    let mut sql = format!(
        "REVOKE ALL ON LARGE OBJECT {oid} FROM PUBLIC;\nREVOKE ALL ON LARGE OBJECT {oid} FROM {owner};\n"
    );
    for item in acl.iter().filter_map(|item| AclItem::parse(item)) {
        let grants = item.grants(oid, &quoted);
        // What the owner gave is given by whoever restores in his name; other givers have to give it themselves.
        if options.no_owner || item.grantor == object.owner {
            sql.push_str(&grants);
        } else {
            sql.push_str(&format!(
                "SET SESSION AUTHORIZATION {};\n{grants}RESET SESSION AUTHORIZATION;\n",
                quoted(&item.grantor)
            ));
        }
    }
    Some(sql)
}

/// Roles that the privileges and owners of a large object name.
pub(crate) fn roles(object: &LargeObjectInfo, options: Options) -> Vec<String> {
    let mut roles = Vec::new();
    if !options.no_owner {
        roles.push(object.owner.clone());
    }
    if !options.no_privileges {
        for item in object
            .acl
            .iter()
            .flatten()
            .filter_map(|item| AclItem::parse(item))
        {
            roles.extend(item.grantee);
            roles.push(item.grantor);
        }
    }
    roles
}

/// An access control item: `grantee=privileges/grantor`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AclItem {
    /// `None` is PUBLIC.
    grantee: Option<String>,
    /// Letters with whether they may be passed on.
    privileges: Vec<(char, bool)>,
    grantor: String,
}

impl AclItem {
    fn parse(text: &str) -> Option<Self> {
        let (grantee, rest) = name(text)?;
        let rest = rest.strip_prefix('=')?;
        let (letters, grantor) = rest.split_once('/')?;
        let mut privileges: Vec<(char, bool)> = Vec::new();
        for letter in letters.chars() {
            match letter {
                '*' => privileges.last_mut()?.1 = true,
                letter => privileges.push((letter, false)),
            }
        }
        let (grantor, _) = name(grantor)?;
        Some(Self {
            grantee: Some(grantee).filter(|name| !name.is_empty()),
            privileges,
            grantor,
        })
    }

    fn grants(&self, oid: u32, quoted: &dyn Fn(&str) -> String) -> String {
        let grantee = self.grantee.as_deref().map_or("PUBLIC".to_owned(), quoted);
        let mut sql = String::new();
        for (letter, option) in &self.privileges {
            let privilege = match letter {
                'r' => "SELECT",
                'w' => "UPDATE",
                _ => continue,
            };
            let option = if *option { " WITH GRANT OPTION" } else { "" };
            sql.push_str(&format!(
                "GRANT {privilege} ON LARGE OBJECT {oid} TO {grantee}{option};\n"
            ));
        }
        sql
    }
}

/// A role's name at the beginning of a text, in quotes if it has to be, and what follows.
fn name(text: &str) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find(['=', '/']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut name = String::new();
    loop {
        let (before, after) = rest.split_once('"')?;
        name.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_control_items() {
        let check =
            |text: &str, grantee: Option<&str>, privileges: &[(char, bool)], grantor: &str| {
                let item = AclItem::parse(text).unwrap();
                assert_eq!(
                    item,
                    AclItem {
                        grantee: grantee.map(str::to_owned),
                        privileges: privileges.to_vec(),
                        grantor: grantor.to_owned()
                    }
                );
            };
        check("a=rw/b", Some("a"), &[('r', false), ('w', false)], "b");
        check("=r*/b", None, &[('r', true)], "b");
        check(
            "\"a \"\"=/\"=r*w/\"B b\"",
            Some("a \"=/"),
            &[('r', true), ('w', false)],
            "B b",
        );
        check("a=/b", Some("a"), &[], "b");
        assert_eq!(AclItem::parse("\"open"), None);
        assert_eq!(AclItem::parse(""), None);
    }

    #[test]
    fn statements_of_an_object() {
        let object = LargeObjectInfo {
            oid: 7,
            owner: "Ow".to_owned(),
            acl: Some(vec![
                "Ow=rw/Ow".to_owned(),
                "a=r*/Ow".to_owned(),
                "=r/a".to_owned(),
            ]),
            comment: Some("it's".to_owned()),
        };
        let all = Options {
            no_owner: false,
            no_privileges: false,
        };
        let expected = "COMMENT ON LARGE OBJECT 7 IS 'it''s';
ALTER LARGE OBJECT 7 OWNER TO \"Ow\";
REVOKE ALL ON LARGE OBJECT 7 FROM PUBLIC;
REVOKE ALL ON LARGE OBJECT 7 FROM \"Ow\";
GRANT SELECT ON LARGE OBJECT 7 TO \"Ow\";
GRANT UPDATE ON LARGE OBJECT 7 TO \"Ow\";
GRANT SELECT ON LARGE OBJECT 7 TO \"a\" WITH GRANT OPTION;
SET SESSION AUTHORIZATION \"a\";
GRANT SELECT ON LARGE OBJECT 7 TO PUBLIC;
RESET SESSION AUTHORIZATION;
";
        assert_eq!(description(&object, all), expected);
        assert_eq!(roles(&object, all), ["Ow", "Ow", "Ow", "a", "Ow", "a"]);
        let bare = Options {
            no_owner: true,
            no_privileges: true,
        };
        assert_eq!(
            description(&object, bare),
            "COMMENT ON LARGE OBJECT 7 IS 'it''s';\n"
        );
        assert!(roles(&object, bare).is_empty());
    }

    #[test]
    fn runs_end_at_holes() {
        let mut runs = Runs::default();
        let page = [1u8; 2048];
        for (oid, offset, len) in [
            (1, 0, 2048),
            (1, 2048, 2048),
            (1, 6144, 100),
            (1, 8192, 5),
            (2, 8197, 1),
        ] {
            runs.push(LargeObjectPage {
                oid,
                offset,
                data: &page[..len],
            });
        }
        assert_eq!(runs.oids, [1, 1, 1, 2]);
        assert_eq!(runs.offsets, [0, 6144, 8192, 8197]);
        assert_eq!(
            runs.data.iter().map(Vec::len).collect::<Vec<_>>(),
            [4096, 100, 5, 1]
        );
        assert_eq!(runs.bytes, 4202);
    }
}
