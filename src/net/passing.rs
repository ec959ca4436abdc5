//! Open sockets on their way to another process (unix(7), `SCM_RIGHTS`).

use std::{
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd as _},
        unix::net::UnixStream,
    },
};

use socket2::{MaybeUninitSlice, MsgHdr, MsgHdrMut, SockRef};

const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
/// Octets of a control message (`struct cmsghdr`) in front of its data.
const HEAD: usize = size_of::<usize>() + 2 * size_of::<i32>();
/// Most sockets at once. Some C libraries take no longer control message.
pub(crate) const MOST: usize = 200;

/// Octets of a control message with so many sockets, without and with what follows its end up to the next one.
fn lengths(sockets: usize) -> (usize, usize) {
    let length = HEAD + sockets * size_of::<i32>();
    (length, length.next_multiple_of(size_of::<usize>()))
}

/// Sends the sockets in one message.
///
/// # Errors
/// As the system says.
pub(crate) fn send(over: &UnixStream, sockets: &[impl AsFd]) -> io::Result<()> {
    let (length, space) = lengths(sockets.len());
    let mut control = length.to_ne_bytes().to_vec();
    control.extend(SOL_SOCKET.to_ne_bytes());
    control.extend(SCM_RIGHTS.to_ne_bytes());
    for socket in sockets {
        control.extend(socket.as_fd().as_raw_fd().to_ne_bytes());
    }
    control.resize(space, 0);
    // A control message does not go without data.
    let data = [io::IoSlice::new(b"s")];
    let message = MsgHdr::new().with_buffers(&data).with_control(&control);
    SockRef::from(over).sendmsg(&message, 0).map(drop)
}

/// Receives so many sockets. The system gives them the lowest numbers that are free, in their order, and they stay open in the program
/// that this process becomes by `exec`.
///
/// # Errors
/// As the system says, or it was another number of sockets.
pub(crate) fn receive(over: &impl AsFd, expected: usize) -> io::Result<()> {
    let (length, space) = lengths(expected);
    let mut data = [MaybeUninit::uninit(); 1];
    let mut control = vec![MaybeUninit::uninit(); space];
    let mut buffers = [MaybeUninitSlice::new(&mut data)];
    let mut message = MsgHdrMut::new()
        .with_buffers(&mut buffers)
        .with_control(&mut control);
    SockRef::from(over).recvmsg(&mut message, 0)?;
    match message.control_len() {
        got if got == length || got == space => Ok(()),
        _ => Err(io::Error::other("not the sockets that were announced")),
    }
}
