//! Servers: `join`, `suicide`, `stk`.

use circuit_client::{Path, Url};

use super::command::Dial;
use super::dial::dial;
use super::error::Failure;
use super::output::{Pipe, Target};

/// Merges a server's circuit with another.
pub(super) async fn join(path: Path, url: Url, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    client.anchor(path).as_server().join(url).await?;
    client.close().await;
    Ok(0)
}

/// Makes a server leave.
pub(super) async fn suicide(path: Path, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    client.anchor(path).as_server().suicide().await?;
    client.close().await;
    Ok(0)
}

/// Prints what a server is doing.
pub(super) async fn stk(path: Path, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    let mut text = client.anchor(path).as_server().stacks().await?;
    let mut out = Pipe::new(Target::Stdout);
    while let Some(piece) = text.chunk().await? {
        out.write(piece).await?;
    }
    out.finish().await?;
    drop(text);
    client.close().await;
    Ok(0)
}
