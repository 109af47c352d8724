//! `glowplug pack MODEL -o FILE`: the weights in the order in which the kernels read them.

use crate::cli::failure::{Failure, put_line};
use crate::cli::models;
use crate::models::opened::Opened;
use crate::models::packed::{self, NotPacked};
use std::path::PathBuf;
use std::time::Instant;

/// Write a model in the layout that the kernels stream, to be mapped at start
#[derive(clap::Args)]
pub(crate) struct Args {
    /// path of a GGUF file, or a name of the catalogue
    model: String,
    /// file to write the packed model to
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// add the output head in four bits: it finds the tokens whose logits the head itself then makes
    #[arg(long)]
    four_bit_head: bool,
}

/// Writes the packed file, reads it again, and prints its size.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let model = models::resolve(&args.model)?;
    let begun = Instant::now();
    let write = || {
        let file = Opened::open(&model)?;
        packed::write(&file, &file.sha256()?, &args.output, args.four_bit_head)
    };
    let packed = write().map_err(|error| match error {
        NotPacked::Io(_) | NotPacked::Full { .. } | NotPacked::Busy => {
            Failure::Run(format!("{}: {error}", args.output.display()))
        }
        NotPacked::Gguf(_) | NotPacked::Pack(_) => {
            Failure::Use(format!("{}: {error}", model.display()))
        }
    })?;
    let bytes = packed.gguf()?.file_bytes();
    put_line(&format!(
        "{}: {bytes} bytes in {:.1} s",
        args.output.display(),
        begun.elapsed().as_secs_f64()
    ))
}
