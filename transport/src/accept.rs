//! An option of listening sockets that no safe wrapper has. Owns nothing; a failure is the caller's to judge.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// Lets the kernel hand a connection over only when its first bytes are there, or `seconds` have passed: whoever connects and
/// is silent costs no user memory meanwhile, and accepting and reading need one wake-up instead of two. Only for protocols
/// in which the client speaks first.
pub fn with_first_bytes(listener: &impl AsFd, seconds: u16) -> io::Result<()> {
    let value = libc::c_int::from(seconds);
    let length = size_of_val(&value) as libc::socklen_t;
    #[expect(unsafe_code, reason = "libc has no wrapper for TCP_DEFER_ACCEPT")]
    // SAFETY: the descriptor is borrowed for the call, and the kernel reads `length` bytes of `value`, which lives on.
    let result = unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const value).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_comes_with_its_first_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        with_first_bytes(&listener, 30).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(
            listener.accept().unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        client.write_all(b"x").unwrap();
        listener.set_nonblocking(false).unwrap();
        listener.accept().unwrap();
    }
}
