//! Images are loaded and called, or refused.
#![allow(clippy::unwrap_used)]

mod support;

use runtime::load::Image;
use support::{KERNELS, image};

/// Runs `fill` over ten elements.
fn call(image: &Image) -> Vec<i32> {
    let mut x = vec![0i32; 10];
    let args = [x.as_mut_ptr() as u64, 100];
    let fill = image.kernel("fill").unwrap();
    // SAFETY: `fill` writes elements 0..10 of its first argument.
    unsafe { fill(args.as_ptr(), 0, 10, std::ptr::null_mut()) };
    x
}

fn code(image: &[u8]) -> Result<(), &'static str> {
    Image::load(image).map(|_| ()).map_err(|error| error.code())
}

#[test]
fn kernels_run() {
    let loaded = Image::load(&image::of(KERNELS).build()).unwrap();
    assert_eq!(call(&loaded), (0..10).map(|i| 3 * i + 100).collect::<Vec<_>>());
    assert!(loaded.kernel("scan").is_some());
    assert!(loaded.kernel("absent").is_none());
}

#[test]
fn code_is_not_writable() {
    let loaded = Image::load(&image::of(KERNELS).build()).unwrap();
    let at = loaded.kernel("fill").unwrap() as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut rights = None;
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|n| usize::from_str_radix(n, 16).unwrap());
        if (from..to).contains(&at) {
            rights = Some(rest[..4].to_owned());
        }
    }
    // That the page is executable shows by running it; an emulator's own map does not tell.
    let rights = rights.unwrap();
    assert!(rights.starts_with("r-"), "{rights}");
}

#[test]
fn addresses_are_relocated() {
    let image = image::of(KERNELS).pointing_to("fill");
    Image::load(&image.build()).unwrap();
    let at = |place, kind, addend| {
        let mut image = image.clone();
        image.relocations = vec![(place, kind, addend)];
        code(&image.build())
    };
    let (place, kind, addend) = image.relocations[0];
    assert_eq!(at(place + 56, kind, addend), Ok(()));
    assert_eq!(at(place + 57, kind, addend), Err("E0504"), "beyond the data");
    assert_eq!(at(image.address("fill"), kind, addend), Err("E0504"), "into code");
    assert_eq!(at(place, kind + 1, addend), Err("E0504"), "another kind");
    assert_eq!(at(place, kind, u64::MAX / 2), Err("E0504"), "outside the image");
    assert_eq!(at(u64::MAX, kind, addend), Err("E0504"), "nowhere");
}

#[test]
fn images_that_want_too_much_are_refused() {
    let with = |change: &dyn Fn(&mut image::Image)| {
        let mut image = image::of(KERNELS);
        change(&mut image);
        Image::load(&image.build()).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(with(&|_| ()), Ok(()));
    let refused = |word: &str, change: &dyn Fn(&mut image::Image)| {
        let message = with(change).unwrap_err();
        assert!(message.contains(word), "{message}");
    };
    refused("machine", &|image| image.machine = 243);
    refused("ELF type", &|image| image.kind = 1);
    refused("writable and executable", &|image| image.code_flags = 7);
    refused("`expf`", &|image| image.imports.push("expf".into()));
    refused("executable segment", &|image| image.code_flags = 4);
    refused("tag 1", &|image| image.dynamic.push((1, 0)));
    refused("tag 22", &|image| image.dynamic.push((22, 0)));
}

#[test]
fn damaged_images_never_crash() {
    let whole = image::of(KERNELS).pointing_to("fill").build();
    for keep in (0..1200).chain([65536, 65600, whole.len() - 1]) {
        let loaded = code(&whole[..keep]);
        assert_eq!(loaded, Err("E0504"), "{keep} bytes");
    }
    // Headers and tables, where every byte could matter.
    for at in 0..1600 {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut image = whole.clone();
            image[at] = value;
            let _ = code(&image);
        }
    }
}
