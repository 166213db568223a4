//! Tells the linker where libbitnet is: `BITNET_LIB_DIR`, else what pkg-config says of `bitnet`. With `runtime-loading`
//! there is nothing to find.

use std::env;
use std::path::Path;
use std::process::{exit, Command};

/// The oldest release whose library has every function of `src/bindings.rs`.
const RELEASE: &str = "0.1";

fn main() {
    for name in ["BITNET_LIB_DIR", "PKG_CONFIG", "PKG_CONFIG_PATH", "DOCS_RS"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    // Documentation needs no library.
    if env::var_os("CARGO_FEATURE_RUNTIME_LOADING").is_some() || env::var_os("DOCS_RS").is_some() {
        return;
    }
    let outcome = match env::var("BITNET_LIB_DIR") {
        Ok(folder) => link_in(&folder),
        Err(env::VarError::NotPresent) => link_as_pkg_config_says(),
        Err(error) => Err(format!("BITNET_LIB_DIR: {error}")),
    };
    if let Err(text) = outcome {
        eprintln!("bitnet-sys: {text}");
        exit(1);
    }
}

fn link_in(folder: &str) -> Result<(), String> {
    let library = Path::new(folder).join("libbitnet.so");
    if !library.exists() {
        return Err(format!("BITNET_LIB_DIR is '{folder}': expected a folder with libbitnet.so"));
    }
    println!("cargo:rerun-if-changed={}", library.display());
    search_in(folder);
    println!("cargo:rustc-link-lib=dylib=bitnet");
    Ok(())
}

fn search_in(folder: &str) {
    println!("cargo:rustc-link-search=native={folder}");
    // The run path of this crate's own tests; other crates choose for themselves, and get DEP_BITNET_LIB_DIR for it.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    println!("cargo:lib_dir={folder}");
}

fn link_as_pkg_config_says() -> Result<(), String> {
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_string());
    let wanted = format!("bitnet >= {RELEASE}");
    let missing = |found: String| {
        format!(
            "no libbitnet: BITNET_LIB_DIR is not set and {found}: expected a folder with libbitnet.so in BITNET_LIB_DIR, \
             bitnet.pc on PKG_CONFIG_PATH, or the feature runtime-loading"
        )
    };
    let done = Command::new(&program)
        .args(["--libs", &wanted])
        .output()
        .map_err(|error| missing(format!("{program} cannot be run ({error})")))?;
    if !done.status.success() {
        let text = String::from_utf8_lossy(&done.stderr).trim().replace('\n', " ");
        return Err(missing(format!("{program} says '{text}'")));
    }
    let flags = String::from_utf8_lossy(&done.stdout).into_owned();
    for flag in flags.split_whitespace() {
        if let Some(folder) = flag.strip_prefix("-L") {
            search_in(folder);
        } else if let Some(library) = flag.strip_prefix("-l") {
            println!("cargo:rustc-link-lib={library}");
        }
    }
    Ok(())
}
