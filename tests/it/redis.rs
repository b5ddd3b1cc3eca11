//! A Redis server for tests: the real one where it is installed, else as much of one as a check of lists asks for.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::pg_cluster::free_port;
use super::services::until;

/// How many entries each list holds.
type Lists = Arc<Mutex<BTreeMap<String, i64>>>;

/// A server that is up until it is dropped.
pub(crate) struct Redis {
    pub(crate) port: u16,
    real: Option<Child>,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let port = free_port();
        let real = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--daemonize", "no"])
            .stdout(Stdio::null())
            .spawn()
            .ok();
        if real.is_none() {
            let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
            let lists = Lists::default();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let lists = lists.clone();
                    std::thread::spawn(move || answer(stream, &lists));
                }
            });
        }
        until("Redis answers", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { port, real }
    }

    /// Gives a command, and waits for its answer.
    pub(crate) fn command(&self, words: &[&str]) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.write_all(text.as_bytes()).unwrap();
        let mut said = String::new();
        BufReader::new(stream).read_line(&mut said).unwrap();
        assert!(said.starts_with([':', '+']), "{said}");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(child) = &mut self.real {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Answers one client until it goes.
fn answer(stream: TcpStream, lists: &Lists) {
    let mut out = stream.try_clone().unwrap();
    let mut input = BufReader::new(stream);
    while let Some(words) = request(&mut input) {
        let list = words.get(1).cloned().unwrap_or_default();
        let mut lists = lists.lock().unwrap();
        let said = match words[0].to_uppercase().as_str() {
            "LLEN" => format!(":{}\r\n", lists.get(&list).copied().unwrap_or_default()),
            "LPUSH" => {
                *lists.entry(list).or_default() += 1;
                ":1\r\n".to_owned()
            }
            "DEL" => format!(":{}\r\n", u8::from(lists.remove(&list).is_some())),
            _ => "+OK\r\n".to_owned(),
        };
        if out.write_all(said.as_bytes()).is_err() {
            return;
        }
    }
}

/// An array of strings.
fn request(input: &mut impl BufRead) -> Option<Vec<String>> {
    let count = number(input, '*')?;
    let mut words = Vec::new();
    for _ in 0..count {
        let mut bytes = vec![0; number(input, '$')? + 2];
        input.read_exact(&mut bytes).ok()?;
        words.push(String::from_utf8_lossy(&bytes).trim_end().to_owned());
    }
    (!words.is_empty()).then_some(words)
}

fn number(input: &mut impl BufRead, sign: char) -> Option<usize> {
    let mut line = String::new();
    input.read_line(&mut line).ok()?;
    line.trim_end().strip_prefix(sign)?.parse().ok()
}
