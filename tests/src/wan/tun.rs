//! A TUN device: what the kernel routes to it is read, and what is written comes out of it as if received. Owns the
//! descriptor; the device ends with it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd},
        unix::fs::OpenOptionsExt as _,
    },
};

use nix::libc;

/// Where devices are asked for.
const CLONE: &str = "/dev/net/tun";
/// The kernel's room for an interface's name, its end included.
const NAME: usize = libc::IFNAMSIZ;

/// The kernel's `struct ifreq`, as this one call uses it: the name, the flags, and room up to its full size.
#[repr(C)]
struct Request {
    name: [u8; NAME],
    flags: libc::c_short,
    room: [u8; size_of::<libc::ifreq>() - NAME - size_of::<libc::c_short>()],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

mod call {
    #![expect(
        unsafe_code,
        reason = "a device is attached by an ioctl, and no safe interface to it exists"
    )]

    nix::ioctl_write_ptr_bad!(
        set_interface,
        nix::request_code_write!(b'T', 202, size_of::<nix::libc::c_int>()),
        super::Request
    );

    /// Attaches the open device to the interface that is asked for.
    pub(super) fn attach(device: std::os::fd::RawFd, request: &super::Request) -> nix::Result<()> {
        // SAFETY: the kernel reads and writes one `struct ifreq`, whose size and layout `Request` has, and keeps no pointer to it.
        unsafe { set_interface(device, std::ptr::from_ref(request)) }.map(drop)
    }
}

/// Whether this user may ask for devices at all; or what to do.
pub(super) fn may_ask() -> Result<(), String> {
    device().map(drop).map_err(|e| {
        format!("{CLONE}: {e} (load the kernel's module tun, and let this user read and write that file)")
    })
}

fn device() -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK);
    options.open(CLONE)
}

/// The device.
#[derive(Debug)]
pub(super) struct Tun(File);

impl Tun {
    /// Makes the interface, in the namespace of the calling thread.
    pub(super) fn open(name: &str) -> io::Result<Self> {
        let device = device()?;
        let mut request = Request {
            name: [0; NAME],
            flags: (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short,
            room: [0; _],
        };
        // The last byte stays zero.
        for (place, byte) in request.name.iter_mut().take(NAME - 1).zip(name.bytes()) {
            *place = byte;
        }
        call::attach(device.as_raw_fd(), &request)?;
        Ok(Self(device))
    }

    /// The next packet's length, in `buffer`; none when there is no packet now.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.0.read(buffer) {
            Ok(length) => Ok(Some(length)),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Hands a packet to the kernel.
    pub(super) fn deliver(&mut self, packet: &[u8]) -> io::Result<()> {
        self.0.write_all(packet)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
