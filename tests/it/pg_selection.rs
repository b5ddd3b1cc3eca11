//! Parts of a database restored into one that is in use.

use std::sync::Arc;

use holdfast::source::postgres::Connector;
use holdfast::target::postgres::{
    Pattern, RestoreOptions, RestoreReport, RestoreTarget, Selection, restore_database,
};

use crate::pg_archive::{MemoryArchive, secret};
use crate::pg_cluster::Cluster;

const LIVE: &str = "
CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p SELECT generate_series(1, 9);
CREATE TABLE t (id serial PRIMARY KEY, a int REFERENCES p, n int GENERATED ALWAYS AS IDENTITY, txt text NOT NULL DEFAULT 'x', UNIQUE (txt));
CREATE INDEX t_a ON t (a); CREATE INDEX other_name ON t (txt, a);
ALTER TABLE t CLUSTER ON t_a; ALTER TABLE t REPLICA IDENTITY USING INDEX t_txt_key;
COMMENT ON INDEX t_a IS 'of t_a'; COMMENT ON COLUMN t.a IS 'of a'; COMMENT ON TABLE t IS 'of t';
CREATE STATISTICS st ON id, a FROM t;
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'begin return new; end';
CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();
CREATE ROLE reader; GRANT SELECT (a) ON t TO reader;
INSERT INTO t (a, txt) SELECT g % 9 + 1, 'row ' || g FROM generate_series(1, 500) g;
CREATE VIEW v AS SELECT count(*) FROM t;
CREATE SCHEMA s; CREATE TABLE s.u (k int PRIMARY KEY); INSERT INTO s.u VALUES (1); CREATE FUNCTION s.g() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TABLE heir () INHERITS (p);
SELECT lo_create(5);
";

fn options(selection: Selection) -> RestoreOptions {
    RestoreOptions {
        jobs: 2,
        selection,
        check: Some(Arc::from(secret())),
        ..RestoreOptions::default()
    }
}

fn tables(names: &[&str]) -> Selection {
    Selection {
        tables: names
            .iter()
            .map(|name| Pattern::parse(name).unwrap())
            .collect(),
        ..Selection::default()
    }
}

struct Live {
    cluster: Cluster,
    archive: MemoryArchive,
}

impl Live {
    fn start() -> Self {
        let cluster = Cluster::start();
        cluster.sql("postgres", "CREATE DATABASE live");
        cluster.sql("live", LIVE);
        let archive = MemoryArchive::of(&cluster, "live");
        Self { cluster, archive }
    }

    fn target(&self) -> RestoreTarget {
        RestoreTarget::with_name(Connector::new(self.cluster.settings("postgres")), "live")
    }

    fn restored(&self, options: &RestoreOptions) -> RestoreReport {
        let report = restore_database(&self.target(), &self.archive, options).expect("restored");
        assert_eq!(report.failures, []);
        assert_eq!(report.check.as_ref().expect("checked").differences, []);
        report
    }

    fn refused(&self, options: &RestoreOptions) -> String {
        let refused = restore_database(&self.target(), &self.archive, options);
        refused.expect_err("refused").to_string()
    }

    fn text(&self, sql: &str) -> String {
        let row = self.cluster.session("live").query_one(sql, &[]).expect(sql);
        row.get::<_, Option<String>>(0).unwrap_or_default()
    }
}

/// Everything of the catalog that belongs to a table, in words.
fn described(live: &Live, table: &str) -> String {
    live.text(&format!(
        "SELECT string_agg(x, E'\n' ORDER BY x) FROM (
           SELECT pg_get_indexdef(indexrelid) || indisclustered || indisreplident || coalesce(obj_description(indexrelid), '') AS x FROM pg_index WHERE indrelid = '{table}'::regclass
           UNION ALL SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = '{table}'::regclass
           UNION ALL SELECT attname || ' ' || attnotnull || attidentity::text || coalesce(pg_get_expr(adbin, adrelid), '') || coalesce(col_description(attrelid, attnum), '') || coalesce(attacl::text, '')
             FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE attrelid = '{table}'::regclass AND attnum > 0
           UNION ALL SELECT tgname FROM pg_trigger WHERE tgrelid = '{table}'::regclass AND NOT tgisinternal
           UNION ALL SELECT pg_get_statisticsobjdef(oid) FROM pg_statistic_ext WHERE stxrelid = '{table}'::regclass) f"
    ))
}

#[test]
fn a_copy_touches_nothing_of_the_original() {
    let live = Live::start();
    let before = described(&live, "public.t");
    live.cluster.sql(
        "live",
        "UPDATE t SET txt = 'damaged ' || id; DELETE FROM t WHERE id > 400",
    );
    for (schema, name) in [("restored", "t"), ("public", "t_of_last_week")] {
        let copy = Selection {
            rename: Some((schema.into(), name.into())),
            ..tables(&["public.t"])
        };
        let report = live.restored(&options(copy.clone()));
        assert_eq!(report.rows, 500);
        let notes = report.notes.join("\n");
        assert!(notes.contains("TRIGGER public.t tr belongs"), "{notes}");
        assert!(
            notes.contains("FK CONSTRAINT public.t t_a_fkey belongs"),
            "{notes}"
        );
        let place = format!("{schema}.{name}");
        assert_eq!(
            live.text(&format!("SELECT max(txt) || count(*) FROM {place}")),
            "row 99500"
        );
        // The same but for the names, and without the trigger and the foreign key.
        let copied = described(&live, &place);
        let expected: Vec<&str> = before
            .lines()
            .filter(|l| !l.contains("FOREIGN KEY") && *l != "tr")
            .collect();
        assert_eq!(copied.lines().count(), expected.len(), "{copied}");
        for own in ["of t_a", "of a", "{reader=r/postgres}", "CREATE STATISTICS"] {
            assert!(copied.contains(own), "{own}: {copied}");
        }
        assert!(
            copied.contains(&format!("{name}_id_seq'::regclass)")),
            "{copied}"
        );
        assert!(!copied.contains("ON public.t "), "{copied}");
        let next = live.text(&format!("SELECT nextval(pg_get_serial_sequence('{place}', 'id'))::text || pg_get_serial_sequence('{place}', 'n')"));
        assert!(
            next.starts_with("501") && next.ends_with(&format!("{name}_n_seq")),
            "{next}"
        );
        assert!(
            live.refused(&options(copy))
                .contains(&format!("already has {place}"))
        );
    }
    assert_eq!(described(&live, "public.t"), before);
    assert_eq!(
        live.text("SELECT count(*)::text || min(txt) FROM t"),
        "400damaged 1"
    );
    let heir = Selection {
        rename: Some(("public".into(), "h".into())),
        ..tables(&["heir"])
    };
    assert!(live.refused(&options(heir)).contains("it inherits"));
}

#[test]
fn tables_bring_what_is_theirs() {
    let live = Live::start();
    let before = described(&live, "public.t");
    assert!(
        live.refused(&options(tables(&["t"])))
            .contains("already has public.t")
    );
    assert!(
        live.refused(&options(tables(&["nothing"])))
            .contains("no table that matches nothing")
    );
    let replace = RestoreOptions {
        clean: true,
        ..options(tables(&["public.t"]))
    };
    let refused = live.refused(&replace);
    assert!(
        refused.contains("public.t can't be dropped, nothing was changed"),
        "{refused}"
    );
    assert_eq!(described(&live, "public.t"), before);
    live.cluster.sql("live", "DROP VIEW v; DELETE FROM t");
    let report = live.restored(&replace);
    assert_eq!((report.rows, report.large_objects), (500, 0));
    assert!(
        report
            .notes
            .join("\n")
            .contains("FK CONSTRAINT public.t t_a_fkey belongs")
    );
    let expected: Vec<&str> = before
        .lines()
        .filter(|line| !line.contains("FOREIGN KEY"))
        .collect();
    assert_eq!(described(&live, "public.t"), expected.join("\n"));

    live.cluster
        .sql("live", "DROP SCHEMA s CASCADE; DROP TABLE heir, p");
    let schema = Selection {
        schemas: vec![Pattern::parse("s").unwrap()],
        ..Selection::default()
    };
    assert_eq!(live.restored(&options(schema)).rows, 1);
    assert_eq!(live.text("SELECT s.g()::text || k FROM s.u"), "11");
    assert_eq!(live.restored(&options(tables(&["p", "heir"]))).rows, 9);
}

#[test]
fn definitions_and_rows_come_apart() {
    let live = Live::start();
    let schema_only = Selection {
        schema_only: true,
        ..Selection::default()
    };
    let rows_only = Selection {
        data_only: true,
        ..Selection::default()
    };
    let other =
        RestoreTarget::with_name(Connector::new(live.cluster.settings("postgres")), "other");
    let restored = |options: &RestoreOptions| restore_database(&other, &live.archive, options);
    assert!(
        restored(&options(rows_only.clone()))
            .unwrap_err()
            .to_string()
            .contains("no database \"other\"")
    );
    let report = restored(&options(schema_only.clone())).unwrap();
    assert_eq!(
        (&report.failures[..], report.rows, report.large_objects),
        (&[][..], 0, 0)
    );
    let report = restored(&options(rows_only.clone())).unwrap();
    assert_eq!(
        (&report.failures[..], report.rows, report.large_objects),
        (&[][..], 510, 1)
    );
    let refused = restored(&options(rows_only.clone()))
        .unwrap_err()
        .to_string();
    assert!(refused.contains("hold rows already"), "{refused}");
    // The foreign key makes the order matter; a truncation of all tables at once does not mind.
    live.cluster
        .session("other")
        .batch_execute("SELECT lo_unlink(5)")
        .unwrap();
    let again = RestoreOptions {
        clean: true,
        ..options(rows_only)
    };
    assert_eq!(restored(&again).unwrap().rows, 510);

    // A whole database is replaced.
    let all = RestoreOptions {
        clean: true,
        ..options(Selection::default())
    };
    let report = restored(&all).unwrap();
    assert!(report.created && report.rows == 510, "{report:?}");
    let new = RestoreOptions {
        create: true,
        ..options(Selection::default())
    };
    assert!(
        restored(&new)
            .unwrap_err()
            .to_string()
            .contains("--create asks for a new one")
    );
}
