use std::process::ExitCode;

fn main() -> ExitCode {
    leveret::cli::run(leveret::server::run)
}
