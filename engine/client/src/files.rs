//! Small files that hold secrets and certificates.

use crate::{Error, ErrorKind};
use std::io::Read;
use std::path::Path;

/// Largest file that is taken for a secret, a certificate or a key. A bundle of the system's authorities has 250 kB.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// The whole file.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |why: String| Error::new(ErrorKind::Settings, format!("{}: {why}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(failed(format!("more than {FILE_BYTES_MAX} bytes; this is no secret or certificate")));
    }
    Ok(bytes)
}

/// The text of a file without white space around it, as Prometheus takes it.
pub fn read_secret(path: &Path) -> Result<String, Error> {
    let text = String::from_utf8(read(path)?)
        .map_err(|_| Error::new(ErrorKind::Settings, format!("{}: not UTF-8", path.display())))?;
    Ok(text.trim().to_owned())
}
