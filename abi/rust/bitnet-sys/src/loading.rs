//! The library opened with dlopen instead of linked: one table of function pointers for the process, filled once.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fmt;
use std::os::raw::{c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::Mutex;

use crate::bindings::{BITNET_ABI_MAJOR, BITNET_ABI_MINOR};

const NAME: &str = "libbitnet.so.1";
const RTLD_LOCAL: c_int = 0;
const RTLD_NOW: c_int = 2;

#[link(name = "dl")]
extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *const c_char;
    fn dlclose(handle: *mut c_void) -> c_int;
}

/// Why the library could not be loaded: which file, what was found and what was expected, in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError(String);

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LoadError {}

/// The functions of a library that is never closed.
struct Table {
    path: PathBuf,
    functions: crate::Pointers,
}

static TABLE: AtomicPtr<Table> = AtomicPtr::new(ptr::null_mut());
static LOADING: Mutex<()> = Mutex::new(());

fn loaded() -> Option<&'static Table> {
    // A table is published whole, and never changed or freed.
    unsafe { TABLE.load(Ordering::Acquire).as_ref() }
}

/// Opens the library, for the process and for good. `path` as dlopen takes it; `None`: the variable `BITNET_LIBRARY`, else
/// `libbitnet.so.1` where the system's loader looks. Any thread; does nothing when the same library is loaded already.
///
/// # Errors
///
/// The file cannot be opened, is of another ABI than these bindings, or lacks a function; or another one is loaded already. The
/// process is then as before and another path may be tried.
pub fn load(path: Option<&Path>) -> Result<(), LoadError> {
    let guard = LOADING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(table) = loaded() {
        return match path {
            Some(path) if path != table.path => Err(LoadError(format!(
                "{}: {} is loaded already: expected one library a process",
                path.display(),
                table.path.display()
            ))),
            _ => Ok(()),
        };
    }
    let given = path.map(|path| path.as_os_str().to_owned());
    let variable = || std::env::var_os("BITNET_LIBRARY").filter(|value| !value.is_empty());
    let path = given.or_else(variable).unwrap_or_else(|| OsString::from(NAME));
    let table = Box::new(Table { functions: open(&path)?, path: path.into() });
    TABLE.store(Box::into_raw(table), Ordering::Release);
    drop(guard);
    Ok(())
}

/// What `load` opened, as it was given; `None` before.
pub fn loaded_path() -> Option<&'static Path> {
    loaded().map(|table| table.path.as_path())
}

pub(crate) fn table() -> &'static crate::Pointers {
    if loaded().is_none() {
        if let Err(error) = load(None) {
            panic!("{error}");
        }
    }
    &loaded().expect("load has published a table").functions
}

fn open(path: &OsStr) -> Result<crate::Pointers, LoadError> {
    let shown = Path::new(path).display();
    let c_path = CString::new(path.as_bytes())
        .map_err(|_| LoadError(format!("{shown:?}: expected a path without a NUL byte")))?;
    // Runs the library's initialisers, which do nothing but set up its own variables.
    let handle = unsafe { dlopen(c_path.as_ptr(), RTLD_NOW | RTLD_LOCAL) };
    if handle.is_null() {
        return Err(LoadError(last_dl_error().unwrap_or_else(|| format!("{shown}: dlopen failed"))));
    }
    let found = check_version(handle, &shown).and_then(|()| {
        crate::Pointers::look_up(|name| unsafe { dlsym(handle, name.as_ptr().cast()) })
            .map_err(|name| LoadError(format!("{shown}: has no function {name}: expected all of bitnet_c.h")))
    });
    if found.is_err() {
        unsafe { dlclose(handle) }; // nothing of it is used
    }
    found
}

fn check_version(handle: *mut c_void, shown: &dyn fmt::Display) -> Result<(), LoadError> {
    let symbol = unsafe { dlsym(handle, b"bitnet_abi_version\0".as_ptr().cast()) };
    if symbol.is_null() {
        return Err(LoadError(format!("{shown}: has no function bitnet_abi_version: expected a libbitnet")));
    }
    // The one function whose type is the same in every version.
    let version = unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> u32>(symbol)() };
    let (major, minor) = (version >> 16, version & 0xffff);
    if major != BITNET_ABI_MAJOR as u32 || minor < BITNET_ABI_MINOR as u32 {
        return Err(LoadError(format!(
            "{shown}: ABI {major}.{minor}: expected {BITNET_ABI_MAJOR}.{BITNET_ABI_MINOR} or a later minor version"
        )));
    }
    Ok(())
}

fn last_dl_error() -> Option<String> {
    let text = unsafe { dlerror() };
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// From `fn name(argument: Type) -> Result;` lines: the table of pointers, and functions that call through it.
macro_rules! functions {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) $(-> $result:ty)?;)*) => {
        pub(crate) struct Pointers {
            $($name: unsafe extern "C" fn($($kind),*) $(-> $result)?,)*
        }

        impl Pointers {
            /// `find` gives the address of a NUL-terminated name, or NULL. Errors: the first name that was not found.
            pub(crate) fn look_up(find: impl Fn(&[u8]) -> *mut ::std::os::raw::c_void) -> Result<Self, &'static str> {
                Ok(Pointers {
                    $($name: {
                        let address = find(concat!(stringify!($name), "\0").as_bytes());
                        if address.is_null() {
                            return Err(stringify!($name));
                        }
                        // The type is the header's, whose ABI version was compared.
                        unsafe { ::std::mem::transmute::<*mut ::std::os::raw::c_void, unsafe extern "C" fn($($kind),*) $(-> $result)?>(address) }
                    },)*
                })
            }
        }

        $(
            /// The library's function of this name, as `bitnet_c.h` describes it.
            ///
            /// # Safety
            ///
            /// As in C: valid pointers, and the owner and thread rules that the header states.
            ///
            /// # Panics
            ///
            /// When the library is not loaded yet and cannot be.
            #[allow(clippy::too_many_arguments)]
            pub unsafe fn $name($($argument: $kind),*) $(-> $result)? {
                (loading::table().$name)($($argument),*)
            }
        )*
    };
}
