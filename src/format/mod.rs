//! Every byte at rest: the specification of format 1. No I/O happens here, and nothing here knows a key.
//!
//! This page ties together what the modules below specify in detail. Where a rule lives outside this module (the chunker, the derivation of
//! keys, the shape of trees), it is written out here too, because it decides bytes; the code that carries it out is named beside it.
//!
//! # Conventions
//!
//! - Integers are little-endian; lengths and offsets are in bytes. `‖` joins byte strings.
//! - *CBOR* is RFC 8949. A *map* has integer keys and is of definite length; unknown keys are skipped, absent keys have their default (0,
//!   empty, none), so that later versions can add fields. An *array* holds the fields in the order of their numbers; more elements than
//!   known are skipped. An enum without data is a bare integer; one with data is an array of its number and an array of its fields.
//!   Names, paths, hashes and digests are byte strings. Field numbers stand at the types as `#[n(…)]`.
//! - *BLAKE3* is its plain hash; `keyed(k, m)` its keyed hash; `derive(c, m)` its key derivation with the context string `c`; all of 32
//!   bytes unless more is said, in which case it is the extended output.
//! - Reserved fields are written as 0 and refused otherwise, unless said that they are skipped.
//!
//! Decoders are total: any bytes give a value or an error. No length that is read reserves memory before it was compared with what is there.
//!
//! # Objects
//!
//! A repository is a set of objects below one root. An object is written once and never changed.
//!
//! | name | module | protection | named by |
//! |---|---|---|---|
//! | `format`, `format.copy` | [`repository`] | plain, checksum | – |
//! | `keys/<hash>`, `keys/<hash>.copy` | [`key`] | wrapped secrets, checksum | hash of the bytes |
//! | `packs/<first byte>/<hash>` | [`pack`] | sealed, kind 1 | hash of the bytes |
//! | `index/<hash>` | [`index`] | sealed, kind 2 | hash |
//! | `snapshots/<hash>` | [`snapshot`] | sealed, kind 3 | hash |
//! | `log/<number>` | [`log`] | sealed, kind 4 | its number, 16 decimal digits, from 1 without gaps |
//! | `gc/<hash>` | [`log::GcList`] | sealed, kind 5 | hash |
//! | `ledger/<hash>` | [`ledger`] | sealed, kind 6 | hash |
//! | `quarantine/<hash>` | [`log::Quarantine`] | sealed, kind 7 | hash |
//! | `checkpoints/<hash>` | [`log::Checkpoint`] | sealed, kind 8 | hash |
//! | `maps/<hash>` | reserved | sealed, kind 9 | hash |
//! | `heartbeats/<session>-<count>` | – | empty | session entry's number, 16 digits; count, 8 digits |
//!
//! `<hash>` is the BLAKE3 of all bytes of the object, 64 small hex digits; anybody can check it without a key. `<first byte>` is its first
//! two digits. Numbers that need more digits than stated take as many as they need. A copy has the same bytes as its original.
//!
//! # Plain objects
//!
//! `format` and key objects stand in one frame ([`framed`]):
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 8 | magic: `HFFORMAT` or `HFKEYOBJ` |
//! | 8 | 2 | version = 1; later versions keep this frame |
//! | 10 | 4 | length of the body, at most 1 MiB |
//! | 14 | length | body: one CBOR map |
//! | 14 + length | 32 | BLAKE3 of everything before it |
//!
//! A checksum that differs is damage; then the copy is read. An intact object of a version above 1 is refused as newer. So damage is never
//! taken for a newer version nor for a wrong passphrase.
//!
//! **`format`**, the map of [`repository::RepositoryFormat`]: repository id (16 random bytes), time of creation, cost of key stretching,
//! chunker settings for files and tables, size below which a file is small, sizes of packs and frames, suite, compression. What its limits
//! do not allow is refused. The settings are those of writers; a reader needs the suite, and the chunkers only to store anew.
//!
//! **Key object**, the map `{0: description, 1: wrapped}`, both byte strings. The description is the CBOR map [`key::KeyDescription`]. With
//! `F` = BLAKE3 of all bytes of `format`, the associated data are `F ‖ description`, and the plaintext is
//!
//! ```text
//! dedup (32) if bit 0 ‖ writer (32) if bit 1 ‖ seal private (32) if bit 2 ‖ seal public (32)        bits: description field 5
//! ```
//!
//! | kind | wrapping key (32) ‖ commitment (32) |
//! |---|---|
//! | 0 passphrase | `derive("holdfast 2026-11-20 stretched passphrase: wrapping key and commitment", argon2id(passphrase, salt))`, argon2id 0x13 with 32 bytes of output and the cost in the description |
//! | 1 key file, 2 recovery key | `derive("holdfast 2026-11-20 key file: wrapping key and commitment", secret ‖ salt)` |
//! | 3 recipient | reserved: wrapped for a public key |
//! | 4 plain | none; allowed only where the suite is 0 |
//!
//! *wrapped* = commitment ‖ AES-256-GCM(wrapping key, nonce 0, associated data, plaintext) ‖ tag (16). The salt is random, so a wrapping key
//! is used once. Kind 4: plaintext ‖ the first 16 bytes of `derive("holdfast 2026-11-20 plain: tag", len(associated) as u64 ‖ associated ‖
//! plaintext)`. A commitment that differs means a wrong key.
//!
//! The texts of key files and recovery keys are specified in `site::key_text`.
//!
//! # Secrets and what follows from them
//!
//! Three independent secrets of 32 random bytes; the third is an X25519 key pair.
//!
//! | derived | how | use |
//! |---|---|---|
//! | chunk id key | `derive("holdfast 2026-11-20 dedup: chunk id", dedup)` | ids of chunks |
//! | file chunker | `derive("holdfast 2026-11-20 chunker v1 files", derive("holdfast 2026-11-20 dedup: file chunker", dedup))` | borders in files |
//! | table chunker | `derive("holdfast 2026-11-20 chunker v1 tables", derive("holdfast 2026-11-20 dedup: table chunker", dedup))` | borders in rows |
//! | row digests | 192 bytes of `derive("holdfast 2026-11-20 dedup: row digest", dedup)` | secret of XXH3 |
//! | directory split | `derive("holdfast 2026-11-20 dedup: directory split", dedup)` | borders of directories |
//! | object key ‖ commitment | 64 bytes of `derive("holdfast 2026-11-20 writer: object key and commitment", writer ‖ repository id ‖ bound)` | kinds 2, 4…9 |
//! | object key ‖ commitment | 64 bytes of `derive("holdfast 2026-11-20 data key: object key and commitment", data key ‖ repository id ‖ bound)` | kinds 1, 3 |
//!
//! *bound* are the first 72 bytes of the object's header. The data key is 32 random bytes of each object, wrapped to the seal public key by
//! HPKE (RFC 9180, base mode, X25519 + HKDF-SHA256 + AES-256-GCM) with `info` = repository id ‖ kind (1) ‖ header salt (32) and associated
//! data = *bound*. So repositories that share *dedup* share chunk ids and borders, and a host without the seal private key writes packs and
//! snapshot records that it can't read.
//!
//! # Sealed objects
//!
//! They start with a plain header ([`header`]):
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 8 | magic `HOLDFAST` |
//! | 8 | 1 | kind, as above |
//! | 9 | 1 | version = 1 |
//! | 10 | 1 | suite: 0 tags only, 1 AES-256-GCM; the one of `format` |
//! | 11 | 1 | key mode: 1 derived from *writer*, 2 wrapped data key (kinds 1 and 3, and only they) |
//! | 12 | 2 | KEM of RFC 9180: 0 in mode 1, 0x0020 in mode 2 |
//! | 14 | 2 | reserved = 0 |
//! | 16 | 8 | number of the writer's session entry, 0 before any |
//! | 24 | 16 | nonce, random: makes the name unique |
//! | 40 | 32 | salt, random |
//! | 72 | 32 | key commitment, compared before anything is opened |
//! | 104 | 2 | length of the wrap: 0 in mode 1, 80 in mode 2 |
//! | 106 | 0 / 80 | encapsulated key (32) ‖ sealed data key (32) ‖ tag (16) |
//!
//! What follows is sealed in numbered pieces (`crypto::aead`), each with a tag of 16 bytes behind it. Suite 1: AES-256-GCM under the object
//! key, nonce = number as u64 ‖ four zero bytes. Suite 0: the plaintext stands as it is and the tag is the first 16 bytes of
//! `keyed(object key, len(associated) as u64 ‖ associated ‖ plaintext)`. Associated data:
//!
//! ```text
//! repository id (16) ‖ kind (1) ‖ header salt (32) ‖ number as u64 (8) [ ‖ 1 if this is the last segment, else 0 (1) ]
//! ```
//!
//! **Kinds 2…9**: the plaintext is cut into *segments* of 1 MiB, the last one shorter or as long, numbered from 0, with the byte in brackets.
//! An empty plaintext is one empty segment. All lengths follow from the object's.
//!
//! **Kind 1**, packs, are pieces without the byte in brackets:
//!
//! | part | size | number | plaintext |
//! |---|---|---|---|
//! | header | 186 | – | – |
//! | frames | as the directory says | 0, 1, 2 … | zstd, raw or prefix, as the directory says |
//! | directory | as the footer says | 2^32 | CBOR [`pack::PackDirectory`]: per frame offset, sealed length, raw length, class, encoding, chunks (id, length), base |
//! | padding | to the [`padme`] length of the whole object | – | random bytes, covered by the pack's name alone |
//! | footer | 32 | 2^32 + 1 | offset of the directory u64 ‖ its sealed length u32 ‖ number of frames u32 |
//!
//! Frames may stand in any order; they overlap neither each other nor anything else. The chunks of a frame stand one after the other in its
//! plaintext and fill it exactly; a frame has at most 32 MiB of plaintext, a pack at most 2^20 frames. Encoding 0 is raw, 1 is one zstd frame
//! without checksum, 2 a prefix frame, below. Classes: 0 tree, 1 small files, 2 file data, 3 tables; class 0 stands in packs of its own, so that listing reads no data.
//!
//! *Prefix frames*, encoding 2: one zstd frame without checksum that continues the plaintext of another frame, its *base* (name of its pack, its
//! number), as a zstd prefix. The base is raw or zstd and has no base itself; a reader refuses one that has. Frames with encoding 2, and no
//! others, have a base. Writers use them for class 3, on frames of packs that the index names. A pack is
//! removed only together with all packs that have frames on its frames; damage of a base is damage of both; who moves the chunks of a prefix
//! frame to another pack encodes them anew.
//!
//! # Chunks
//!
//! A chunk is 1 B … 16 MiB of plaintext with the id `keyed(chunk id key, plaintext)`. A chunk that leaves the repository was opened and its id
//! computed again. Class and place say nothing about identity: the same bytes are the same chunk.
//!
//! ## Where streams are cut
//!
//! Sizes are `bytes_min`, `bytes_average` (`avg`, 512 B … 1 MiB) and `bytes_max` of the chunker's settings; algorithm 1 is the only one. In
//! integers (`pipeline::chunker`):
//!
//! ```text
//! bits     = floor(log2 avg) − 4                 threshold₁ = 2^(32 − bits)
//! strict   = floor(2^(62 + bits) / avg)          loose      = 16 · strict
//! normal   = avg − floor(avg / 32) · 7
//! ```
//!
//! The extended output of `keyed(chunker key, "")` is read in draws of 36 bytes: four u32 multipliers K₀…K₃ (lowest bit set to 1), u32 C, and
//! the two u64 halves of a SipHash key. A draw counts unless any run of 16 equal bytes passes stage 1; the first that counts is used.
//!
//! With `e` = bytes of the chunk before the position, the position
//!
//! - passes stage 1 if `C + Σ_{j=0..3} u32(bytes e−4(j+1) .. e−4j) · K_j mod 2^32 < threshold₁`,
//! - is a candidate if it also has SipHash-1-3 of the bytes `e−32 .. e` below `strict` (for `e < normal`) or `loose` (else).
//!
//! A stream of bytes: the chunk ends at its first candidate `e` with `bytes_min ≤ e < bytes_max`, else at `bytes_max`, else with the stream.
//! A stream of rows (each ends with a line feed): at the first row end at or behind that candidate, but not beyond `bytes_max`; where there
//! is no such row end or no candidate, and the stream goes on for `bytes_max`, at the last row end in `bytes_min ..= bytes_max`, else at
//! `bytes_max`. Files, schema dumps and large objects are streams of bytes; table parts are streams of rows.
//!
//! # Index runs
//!
//! [`index`]: a table of packs with their frames, then entries (chunk id → pack, frame, offset, length) in blocks of up to 4096, sorted by id,
//! then pack. A run says nothing that the directories of its packs do not say: an index can be rebuilt from packs alone. Runs of a repository
//! may overlap and repeat.
//!
//! # Trees
//!
//! **Contents** ([`node::Content`]): a list of chunk references (id, length) and a depth. Depth 0: the chunks of the bytes. Depth n: tree chunks
//! whose plaintext is the CBOR of references, one after the other, of a content of depth n − 1; at most 4. Writers put up to 48 references into
//! the content itself. A longer list is cut into tree chunks: behind a reference whose id begins with a zero byte if the chunk holds at least
//! 64, and behind the 1024th; so are the lists of such chunks, until at most 48 are left (`pipeline::item`).
//!
//! **Directories**: the stream of a directory is the CBOR maps of its nodes ([`node::Node`]), sorted by name bytewise, none twice. Its chunks
//! end behind a node if the first 8 bytes (u64) of `keyed(directory split key, name)` are below `floor((2^64 − 1) / 128)`, or if the chunk has
//! 256 KiB or more, so each chunk is a whole number of nodes (`pipeline::tree`). A directory node holds the content of its stream and the
//! totals below it. The root has no node: the snapshot record has its content.
//!
//! **Nodes** carry name, kind, mode, owner, times, extended attributes, device numbers, link target, size, holes, content, `digest` (plain BLAKE3
//! of the whole content with holes read as zeros), and for a table part what its rows are. Attributes and holes that are too many for the node
//! are streams of [`node::Xattr`] and [`node::Hole`], one CBOR item after the other. Names of hard links of one file have the same `link_group`
//! and each the whole content. Holes ascend; the content holds what is between them.
//!
//! The top folders are `databases`, `clusters`, `shares`, `paths`, `files`, `certificates` and `site`. Databases:
//!
//! | path | what |
//! |---|---|
//! | `databases/<name>/database.json` | [`database::DatabaseInfo`] |
//! | `databases/<name>/schema.dump` | pre- and post-data of pg_dump in its custom format |
//! | `databases/<name>/tables/<schema>/<table>/<part, 6 digits>` | text of COPY, each row ended by a line feed, no end mark; its node has [`node::TablePart`] |
//! | `databases/<name>/large-objects/…` | [`large_object`] |
//! | `clusters/<name>/globals.sql` | pg_dumpall's globals |
//!
//! Names of databases, schemas and tables are written as in [`path_encoding`]. `rows_digest` is the sum modulo 2^128 over all rows of XXH3-128
//! of the row without its line feed, with the 192 bytes of the row digest secret; 16 bytes, little-endian.
//!
//! # Snapshots and the log
//!
//! A snapshot record is the CBOR map [`snapshot::Record`]; it names the root and what grows with the site as contents. A record counts once a
//! log entry names it.
//!
//! A log entry is the CBOR map [`log::LogEntry`]: its number, BLAKE3 of all bytes of the entry before it (zeros at 1), a nonce, the number of
//! the newest checkpoint entry (0: none), and one action:
//!
//! | number | action | fields |
//! |---|---|---|
//! | 0 | session | – |
//! | 1 | expire | session |
//! | 2 | snapshot | record, index runs, session |
//! | 3 | forget | records |
//! | 4 | gc | gc list |
//! | 5 | key | added, removed key objects |
//! | 6 | quarantine | object, whether it is lifted |
//! | 7 | checkpoint | object |
//!
//! A client that meets an unknown action must not append. What the entries mean together, and what an entry is tested for, is `store::state` and
//! `store::append`. *Written by later versions, read by this one*: gc lists, quarantines, checkpoints. *Reserved*: maps. The ledger is named by
//! nothing; nothing rests on it.
//! (A copy between repositories with different dedup secrets needs no map of ids: what is unchanged is known by digests that no secret goes into,
//! see `ops::copy`.)
//!
//! # Padding
//!
//! [`padme`]: for a length of `n` bytes with `E = floor(log2 n)` and `S = floor(log2 E) + 1`, the lowest `E − S` bits of the padded length are
//! zero; it is the smallest such length not below `n`. Packs alone are padded.
//!
//! # Versions
//!
//! Objects carry 1 as their version. A reader refuses what is newer, by name, and changes nothing. What may be added to version 1 without a new
//! number: fields of CBOR maps whose absence means what it means today. Every version that was released has repositories in `tests/golden`, and
//! a test that reads every byte of them.
//!
//! # Invariants
//!
//! 1. A header, a name, a key description has one form (`headers_have_one_form`, `a_path_and_its_name_determine_each_other`).
//! 2. The outputs of the key derivations, sealed objects and chunk borders never change (`known_answers`, `borders_are_pinned`).
//! 3. Hostile bytes are refused (`hostile_directories_are_refused`, `hostile_runs_are_refused`, `hostile_names_are_refused`, `limits_hold`);
//!    each decoder has a target in `fuzz/`.
//! 4. Repositories of this format are read for ever (`every_byte_of_format_1_is_read`).

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub mod database;
pub mod framed;
pub mod header;
pub mod holes;
pub mod id;
pub mod index;
pub mod key;
pub mod large_object;
pub mod ledger;
pub mod log;
pub mod node;
pub mod pack;
pub mod padme;
pub mod path_encoding;
pub mod repository;
pub mod snapshot;
