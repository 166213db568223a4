//! A run path, so that this crate's own tests and examples find the library that BITNET_LIB_DIR or pkg-config named. What a program that
//! uses the crate finds at run time is that program's own choice.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Ok(folder) = std::env::var("DEP_BITNET_LIB_DIR") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
