//! Frames: decompressing anything gives exactly the expected length or an error; what was compressed comes back,
//! alone or on a base.
#![no_main]

use std::cell::RefCell;

use holdfast::format::pack::Encoding;
use holdfast::pipeline::frames::FrameCodec;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static CODEC: RefCell<FrameCodec> = RefCell::new(FrameCodec::new(1).expect("zstd has level 1"));
}

fuzz_target!(|data: &[u8]| {
    let Some(([choice, low, high], rest)) = data.split_first_chunk::<3>() else {
        return;
    };
    CODEC.with_borrow_mut(|codec| {
        let mut plain = Vec::new();
        let encoding = Encoding::from_number(choice & 3).unwrap_or_default();
        let len = usize::from(u16::from_le_bytes([*low, *high])) << (choice >> 2 & 15);
        if codec.decompress(encoding, rest, len, &mut plain).is_ok() {
            assert_eq!(plain.len(), len);
        }
        let mut packed = Vec::new();
        let encoding = codec
            .compress(rest, &mut packed)
            .expect("anything can be compressed");
        codec
            .decompress(encoding, &packed, rest.len(), &mut plain)
            .expect("it comes back");
        assert_eq!(plain, rest);
        let (base, data) = rest.split_at(rest.len() / 2);
        if codec
            .decompress_on_base(base, data, len, &mut plain)
            .is_ok()
        {
            assert_eq!(plain.len(), len);
        }
        let encoding = codec
            .compress_on_base(data, base, &mut packed)
            .expect("anything can be compressed on anything");
        let back = match encoding {
            Encoding::ZstdPrefix => {
                codec.decompress_on_base(base, &packed, data.len(), &mut plain)
            }
            encoding => codec.decompress(encoding, &packed, data.len(), &mut plain),
        };
        back.expect("it comes back");
        assert_eq!(plain, data);
    });
});
