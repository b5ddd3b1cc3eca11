//! `completions` and `man`: what is made of the command line's own description.

use anyhow::Context as _;
use clap::CommandFactory;

use crate::cli::args::{Args, Completions, Man};
use crate::cli::output::Output;

/// `holdfast completions`.
pub(super) fn completions(args: &Completions) -> anyhow::Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "holdfast", &mut script);
    print(&script)
}

/// `holdfast man`.
pub(super) fn man(args: &Man) -> anyhow::Result<u8> {
    if let Some(directory) = &args.directory {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        clap_mangen::generate_to(Args::command(), directory)
            .with_context(|| format!("cannot write manual pages to {}", directory.display()))?;
        return Ok(0);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Args::command()).render(&mut page)?;
    print(&page)
}

fn print(bytes: &[u8]) -> anyhow::Result<u8> {
    let mut output = Output::new(false);
    output.bytes(bytes)?;
    output.flush()?;
    Ok(0)
}
