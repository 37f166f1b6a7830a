//! Making containers over a caller's stream, who is shown how an image is fetched.
//!
//! **Cancellation:** a caller that goes away while an image is fetched takes its container along;
//! one that goes away later leaves it made.

use std::sync::Arc;

use circuit_proto::element::container::Run;
use circuit_proto::request::{End, Reply, Value};
use circuit_proto::{Code, Error, Path};
use futures_util::StreamExt;

use super::call::{Call, Gone};
use crate::anchor::Reservation;
use crate::element::Element;
use crate::element::container::engine::Engine;
use crate::element::container::{Container, fetch_image, needs_image};

impl Call {
    /// Makes a container element, and sees to it that one which forgets itself does.
    pub(super) async fn make_container(mut self, path: Path, run: Run) {
        let (engine, place) = match self.reserved(&path) {
            Ok(reserved) => reserved,
            Err(error) => return self.refuse(error).await,
        };
        match needs_image(&engine, &run, &path).await {
            Ok(true) => {
                if self.send.frame(&Reply::Ok(Value::default())).await.is_err() {
                    return;
                }
                let Ok(fetched) = self.fetch(&engine, &run).await else {
                    return;
                };
                let end: End = match fetched {
                    Ok(()) => self.start_container(engine, place, run, &path).await,
                    Err(error) => Err(error),
                };
                self.operation.log(end.as_ref().err());
                let _ = self.send.end(end).await;
            }
            Ok(false) => match self.start_container(engine, place, run, &path).await {
                // The progress of nothing.
                Ok(()) => self.text(String::new()).await,
                Err(error) => self.refuse(error).await,
            },
            Err(error) => self.refuse(error).await,
        }
    }

    /// The Engine, and the place for the element.
    fn reserved(&mut self, path: &Path) -> Result<(Arc<Engine>, Reservation<Element>), Error> {
        let server = self.server.clone();
        let Some(engine) = &server.engine else {
            let message = "this server hosts no containers: start it with -docker";
            return Err(Error::new(Code::Refused, message));
        };
        Ok((engine.clone(), self.reserve(path.below_server())?))
    }

    /// Fetches the image, until it is there or the caller is gone.
    async fn fetch(&mut self, engine: &Engine, run: &Run) -> Result<Result<(), Error>, Gone> {
        let abandoned = self.send.abandoned();
        tokio::pin!(abandoned);
        let mut progress = std::pin::pin!(fetch_image(engine, run));
        loop {
            let line = tokio::select! {
                line = progress.next() => line,
                () = &mut abandoned => return Err(Gone),
            };
            match line {
                Some(Ok(line)) => self.send.data(line.into()).await?,
                Some(Err(error)) => return Ok(Err(error)),
                None => return Ok(Ok(())),
            }
        }
    }

    async fn start_container(
        &mut self,
        engine: Arc<Engine>,
        place: Reservation<Element>,
        run: Run,
        path: &Path,
    ) -> Result<(), Error> {
        let container = Container::start(engine, run, path).await?;
        let element = Element::Container(container.clone());
        let committed = element.clone();
        let commit = || {
            place.commit(committed);
            Ok(())
        };
        self.operation.in_order(commit, |_| true)?;
        if container.forgets_itself() {
            let (server, names) = (self.server.clone(), path.below_server().to_vec());
            tokio::spawn(async move {
                container.done().await;
                let same = |found: &Element| found.is(&element);
                if server.tree.remove_if(&names, same).is_some() {
                    container.scrub();
                }
            });
        }
        Ok(())
    }
}
