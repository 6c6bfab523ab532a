//! Packages: made twice they are the same, and what they hold runs.

mod support;

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::{FakeTarget, config, free, job, request, root, until};

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// Runs a program that has to succeed.
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Makes packages of the program under test; the names of the files, in order.
fn package(out: &Path, only: &str) -> Vec<String> {
    run(Command::new("python3")
        .arg(root().join("scripts/package"))
        .args(["--binary", env!("CARGO_BIN_EXE_ringscrape"), "--level=1", "--only", only, "--out"])
        .arg(out)
        .env("CARGO", env!("CARGO"))
        .env("SOURCE_DATE_EPOCH", "1700000000"));
    let names = std::fs::read_dir(out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

fn find(folder: &Path, names: &[String], end: &str) -> PathBuf {
    let name = names.iter().find(|name| name.ends_with(end)).unwrap_or_else(|| panic!("no {end} in {names:?}"));
    folder.join(name)
}

/// Starts a program of a package with a target, waits until its sample is there, and ends it.
fn scrapes(program: &Path, folder: &Path) {
    let target = FakeTarget::saying("packed 1\n");
    std::fs::write(folder.join("prometheus.yml"), config(&[job("j", &[target.address], "")])).unwrap();
    let address = free("127.0.0.1");
    let mut child = Command::new(program)
        .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
        .arg(format!("--web.listen-address={address}"))
        .current_dir(folder)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("it listens", || std::net::TcpStream::connect(address).ok());
    until("the sample is there", || {
        request(address, "GET", "/api/v1/query?query=packed", &[]).body.contains("\"1\"").then_some(())
    });
    run(Command::new("kill").arg(child.id().to_string()));
    assert!(child.wait().unwrap().success());
}

#[test]
fn packages_are_the_same_twice_and_run() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("1"), folder.path().join("2"));
    let names = package(&first, "deb,tar,oci");
    assert_eq!(package(&second, "deb,tar,oci"), names);
    for name in &names {
        assert!(
            std::fs::read(first.join(name)).unwrap() == std::fs::read(second.join(name)).unwrap(),
            "{name} differs"
        );
    }
    run(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&first));

    // The tarball.
    let unpacked = folder.path().join("tar");
    std::fs::create_dir(&unpacked).unwrap();
    run(Command::new("tar").arg("-xzf").arg(find(&first, &names, ".tar.gz")).arg("-C").arg(&unpacked));
    let top = std::fs::read_dir(&unpacked).unwrap().next().unwrap().unwrap().path();
    for file in ["LICENSE", "systemd/ringscrape.service", "man/man1/ringscrape.1", "completions/ringscrape.bash"] {
        assert!(top.join(file).is_file(), "{file}");
    }
    scrapes(&top.join("ringscrape"), folder.path());

    // The bill of materials names what is linked in, and no crate that tests alone need.
    let bill: Value = serde_json::from_slice(&std::fs::read(find(&first, &names, ".sbom.cdx.json")).unwrap()).unwrap();
    let crates: Vec<&str> =
        bill["components"].as_array().unwrap().iter().map(|part| part["name"].as_str().unwrap()).collect();
    for linked in ["rustls", "tokio", "glommio", "ringscrape-tsdb"] {
        assert!(crates.contains(&linked), "{linked}");
    }
    assert!(!crates.contains(&"proptest") && !crates.contains(&"criterion"));

    image_is_complete(&find(&first, &names, ".oci.tar"), folder.path());
    if is_installed("dpkg-deb") {
        deb_is_complete(&find(&first, &names, ".deb"), folder.path());
    } else {
        eprintln!("SKIPPED: dpkg-deb is not installed");
    }
}

fn deb_is_complete(deb: &Path, folder: &Path) {
    let field = |name: &str| {
        let output = run(Command::new("dpkg-deb").arg("--field").arg(deb).arg(name));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(field("Version"), env!("CARGO_PKG_VERSION"));
    assert!(field("Depends").starts_with("libc6 (>= 2."), "{}", field("Depends"));
    let unpacked = folder.join("deb");
    run(Command::new("dpkg-deb").arg("--raw-extract").arg(deb).arg(&unpacked));
    let conffiles = std::fs::read_to_string(unpacked.join("DEBIAN/conffiles")).unwrap();
    assert_eq!(conffiles, "/etc/default/ringscrape\n/etc/ringscrape/prometheus.yml\n");
    for file in [
        "usr/lib/systemd/system/ringscrape.service",
        "usr/lib/sysusers.d/ringscrape.conf",
        "usr/share/man/man1/ringscrape.1.gz",
        "usr/share/man/man1/ringscrape-check-config.1.gz",
        "usr/share/bash-completion/completions/ringscrape",
        "usr/share/ringscrape/rules/guardrails.yml",
    ] {
        assert!(unpacked.join(file).is_file(), "{file}");
    }
    for script in ["postinst", "prerm", "postrm"] {
        run(Command::new("sh").arg("-n").arg(unpacked.join("DEBIAN").join(script)));
    }
    let program = unpacked.join("usr/bin/ringscrape");
    // The configuration that is shipped is a good one, and the flags of the unit are known.
    run(Command::new(&program).args(["check", "config"]).arg(unpacked.join("etc/ringscrape/prometheus.yml")));
    let defaults = std::fs::read_to_string(unpacked.join("etc/default/ringscrape")).unwrap();
    let unit = std::fs::read_to_string(unpacked.join("usr/lib/systemd/system/ringscrape.service")).unwrap();
    let flags = defaults.lines().find_map(|line| line.strip_prefix("ARGS=")).unwrap().trim_matches('"');
    assert!(unit.contains(&format!("Environment=\"ARGS={flags}\"")), "the unit has the same flags without the file");
    scrapes(&program, folder);
}

/// The image has a valid layout, the loader and libraries that its program asks for, and starts as Prometheus' image does.
fn image_is_complete(image: &Path, folder: &Path) {
    let layout = folder.join("oci");
    let tree = folder.join("image");
    for folder in [&layout, &tree] {
        std::fs::create_dir(folder).unwrap();
    }
    run(Command::new("tar").arg("-xf").arg(image).arg("-C").arg(&layout));
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
        let path = layout.join("blobs/sha256").join(&digest);
        let sum = run(Command::new("sha256sum").arg(&path)).stdout;
        assert!(String::from_utf8(sum).unwrap().starts_with(&digest));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), descriptor["size"].as_u64().unwrap());
        path
    };
    let json = |path: &Path| serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap();
    let index = json(&layout.join("index.json"));
    let manifest = json(&blob(&index["manifests"][0]));
    let config = json(&blob(&manifest["config"]));
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/bin/prometheus"]));
    assert_eq!(config["config"]["User"], "65534:65534");
    run(Command::new("tar").arg("-xzf").arg(blob(&manifest["layers"][0])).arg("-C").arg(&tree));
    let needed = run(Command::new("ldd").arg(tree.join("usr/bin/ringscrape"))).stdout;
    for library in String::from_utf8(needed).unwrap().lines().filter_map(|line| line.split_once(" => ")) {
        let path = library.1.split(' ').next().unwrap();
        assert!(tree.join(path.trim_start_matches('/')).is_file(), "{path}");
    }
    // Root may see with the image's own libraries whether they are all that is needed.
    let version = Command::new("chroot").arg(&tree).args(["/bin/prometheus", "--version"]).output();
    match version {
        Ok(output) if output.status.success() => {
            assert!(String::from_utf8_lossy(&output.stdout).contains("ringscrape"))
        }
        Ok(output) if !String::from_utf8_lossy(&output.stderr).contains("not permitted") => {
            panic!("{}", String::from_utf8_lossy(&output.stderr))
        }
        _ => eprintln!("SKIPPED: the image's program in a root of its own: needs root"),
    }
}

#[test]
fn the_rpm_is_the_same_twice() {
    if !is_installed("rpmbuild") {
        eprintln!("SKIPPED: rpmbuild is not installed (Debian: rpm)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("1"), folder.path().join("2"));
    let names = package(&first, "rpm");
    package(&second, "rpm");
    let rpm = find(&first, &names, ".rpm");
    let again = second.join(rpm.file_name().unwrap());
    assert!(std::fs::read(&rpm).unwrap() == std::fs::read(&again).unwrap(), "{rpm:?} differs");
    let listed = run(Command::new("rpm").args(["-qp", "--list", "--nosignature"]).arg(&rpm)).stdout;
    let listed = String::from_utf8(listed).unwrap();
    for file in ["/usr/bin/ringscrape", "/usr/lib/systemd/system/ringscrape.service", "/etc/ringscrape/prometheus.yml"]
    {
        assert!(listed.lines().any(|line| line == file), "{file} in {listed}");
    }
}
