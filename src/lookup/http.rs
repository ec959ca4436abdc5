//! One HTTP/1.1 request on a connection that is there already, with limits for what the answer may be.

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use tokio::io::{AsyncRead, AsyncWrite};

/// Most octets of the response's header section.
const MAX_HEAD: usize = 16 * 1024;
/// Most fields of the response's header section.
const MAX_FIELDS: usize = 64;

/// Sends the request, and hands the answer's head, whose body is still to come, to `read`. `failed` words what HTTP itself has to
/// complain of.
pub(super) async fn exchange<S, T, E>(
    stream: S,
    mut request: Request<Full<Bytes>>,
    failed: impl Fn(hyper::Error) -> E,
    read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, E>,
) -> Result<T, E>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let fixed = [
        (header::USER_AGENT, "starttls-proxy"),
        (header::CONNECTION, "close"),
    ];
    for (name, value) in fixed {
        let value = header::HeaderValue::from_static(value);
        request.headers_mut().insert(name, value);
    }
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_FIELDS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(&failed)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(&failed)?;
        read(response).await
    };
    // The connection is driven here and dropped here. If it ends first, `answer` reports it.
    let driver = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        biased;
        answer = answer => answer,
        never = driver => match never {},
    }
}

/// The body of an answer, which may have so many octets.
///
/// # Errors
/// In words.
pub(super) async fn body(response: Response<Incoming>, most: usize) -> Result<Vec<u8>, String> {
    let body = Limited::new(response.into_body(), most);
    match body.collect().await {
        Ok(body) => Ok(body.to_bytes().to_vec()),
        Err(error) => Err(format!("body: {error}")),
    }
}
