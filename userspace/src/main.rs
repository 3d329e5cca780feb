// SPDX-License-Identifier: GPL-3.0-only
//! `expressgateway [FILE]`: command line, configuration, app, signals; each is a module of the library.

use std::process::ExitCode;

use clap::Parser;
use expressgateway::app::App;
use expressgateway::cli::{Cli, version};
use expressgateway::config::dump::dump;
use expressgateway::signal::Signals;
use expressgateway::{config, control, limits, logs, panic};

/// The command line or the configuration is wrong; clap uses the same.
const WRONG: u8 = 2;
/// The configuration is right and this host cannot do it.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.version {
        println!("{}", version());
        return ExitCode::SUCCESS;
    }
    let (file, loaded) = match cli.file().and_then(|file| {
        let loaded = config::load(&file).map_err(|error| error.to_string())?;
        Ok((file, loaded))
    }) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(WRONG);
        }
    };
    if cli.check || cli.dump {
        for note in &loaded.notes {
            eprintln!("{note}");
        }
        return if cli.dump { print_dump(&loaded.plan) } else { ExitCode::SUCCESS };
    }

    let logs = logs::start(&loaded.plan.observability);
    panic::install();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), file = %file.display(), "expressgateway");
    for note in &loaded.notes {
        tracing::warn!("{note}");
    }
    let descriptors = limits::raise_descriptors();

    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the control thread's runtime");
            return ExitCode::from(FAILED);
        }
    };
    runtime.block_on(async {
        // Before anything that a signal must end cleanly.
        let signals = match Signals::catch() {
            Ok(signals) => signals,
            Err(error) => {
                tracing::error!(%error, "cannot catch signals");
                return ExitCode::from(FAILED);
            }
        };
        match App::start(file, loaded.plan, logs, descriptors).await {
            Ok(app) => control::run(app, signals).await,
            Err(error) => {
                tracing::error!("cannot start: {error}");
                ExitCode::from(FAILED)
            }
        }
    })
}

fn print_dump(plan: &config::plan::Plan) -> ExitCode {
    match dump(plan) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cannot write the configuration as TOML: {error}");
            ExitCode::from(FAILED)
        }
    }
}
