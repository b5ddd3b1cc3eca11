//! holdfast: a streaming archiver for whole *sites*. Several PostgreSQL databases, file shares, configuration files and certificates become one
//! snapshot in a repository that is deduplicated, compressed, encrypted and content-addressed.
//!
//! This page is the map: how a byte travels, what is where, and what must never be broken. Each module's own page says its part to the byte.
//!
//! # Bird's-eye view
//!
//! ```text
//!  site file, paths, databases
//!         │  cli parses, opens the repository            cli → ops
//!         ▼
//!  ops::backup ── opens a session, chooses parents ───── store::session
//!         │
//!         ▼
//!  source::files   source::postgres   source::certificates          what is unchanged since the parent is handed over as a reference
//!         │  streams of bytes and rows, nodes
//!         ▼
//!  pipeline   cut ▸ identify ▸ claim ▸ frame ▸ compress             worker threads and bounded queues live here only
//!         │  frames                                  │  nodes
//!         ▼                                          ▼
//!  store::packs   seal, append, hash           pipeline::tree       directories as streams of nodes, cut at entry borders
//!         │                                          │
//!         ▼                                          ▼
//!  backend   begin, append, commit              store::append       the record, then one create in the commit log
//! ```
//!
//! A restore goes the other way: `ops` plans windows of chunks, `store::reader` finds, opens and checks them, `target` writes. One snapshot is one
//! Merkle tree of named nodes; a database is a folder in it, so that everything that works on files works on tables.
//!
//! # Code map
//!
//! | module | what it is for | what it must know nothing of |
//! |---|---|---|
//! | `cli` (in the binary) | commands and flags, the terminal, JSON, the environment | frames, queues |
//! | [`ops`] | one file for each verb: orchestration | clap, the terminal, environment variables |
//! | [`site`] | the site file, lists, profiles, secrets of people | repositories |
//! | [`source`] | where bytes come from: files, PostgreSQL, certificates | chunks, packs, repositories |
//! | [`target`] | where restored bytes go: files, PostgreSQL, tar | chunks, packs, repositories |
//! | [`pipeline`] | streams → chunks → frames, nodes → tree | what a table or a file is |
//! | [`store`] | a repository on a backend: packs, index, commit log, sessions | sources, threads of the pipeline |
//! | [`crypto`] | secrets, sealing, wrapping | I/O |
//! | [`backend`] | a flat, write-once object store: local disk, memory | encryption, what is inside an object |
//! | [`mod@format`] | every byte at rest: the specification of the format | everything else |
//! | [`sort`] | a sort that spills to scratch files | what it sorts |
//! | [`error`], [`stats`] | the errors that end a run, the counters of a run | – |
//!
//! Who may use whom is a test (`tests/it/tidy.rs`).
//!
//! # The order of writes
//!
//! A backup makes durable, in this order: its session entry; packs; index runs over them; the snapshot record; the snapshot entry in the log. The
//! entry is tested on exactly the state that it follows (`store::append`). Nothing is overwritten at any step, so a crash between two of them
//! leaves objects that no entry names: garbage, which the next run adopts where it can and which is never in the way.
//!
//! # The order of reads
//!
//! The log first, to its end; then the records that it says are live; then the index runs of the same state; then packs. An object that is
//! absent is damage only if the log, read again after it was found absent, still wants it.
//!
//! # Invariants
//!
//! What *must* hold; where it does not, data is lost:
//!
//! 1. Every chunk of every live snapshot is in a pack that exists, is not condemned, and is named by the index; and so is the pack of the frame
//!    that the chunk's frame is compressed on, if it is on one (`format::pack`).
//! 2. An entry of the log exists only after everything that it names is durable, and was tested on the state that it follows.
//! 3. No object is written twice under one name, and no name repeats.
//! 4. Only what the log condemned is deleted.
//! 5. A chunk's id is computed again whenever its bytes leave the repository.
//! 6. No number of a frame is sealed twice under one key.
//! 7. A restore opens everything beneath a handle of its target and follows no link out of it.
//!
//! What *should* hold; where it does not, something has to be repaired or is slow:
//!
//! 8. `format` and every key object exist twice.
//! 9. Every pack that exists is named by some index run.
//! 10. A chunk is stored once.
//! 11. Memory is bounded by settings: queues, frames, packs, trees, the index of chunks (`pipeline` and `store::chunk_index` have the
//!     formulas).
//!
//! # Errors
//!
//! Two kinds on the data path. What is wrong with one item of a source is counted, named, and stands in the record; the run goes on. What is
//! wrong with the repository ends the run ([`error::Error`]). Nothing turns the second into the first. The exit code says which it was.
//!
//! # Threads
//!
//! `ops` coordinates in the caller's thread. Readers belong to sources, workers to the pipeline; one thread closes packs. CPU-bound steps never run
//! on tokio, which drives connections only. A [`store::Repository`] is shared by all of them; each module's page says who may call it from where.

pub mod backend;
pub mod crypto;
pub mod error;
pub mod format;
pub mod ops;
pub mod pipeline;
pub mod site;
pub mod sort;
pub mod source;
pub mod stats;
pub mod store;
pub mod target;
