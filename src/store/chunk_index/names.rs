//! Packs by their names, for frames that are compressed on those of other packs.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use super::rows::Row;
use super::{Arc, ChunkIndex, LEFT_OUT, ObjectHash, PlaceOfPack, REFUSED, RELIED, RunPack, lock};
use crate::store::StoreError;

impl ChunkIndex {
    /// A pack by its name, also one that is left out; `None` if no run names it. The first call reads the names of all packs: 36 bytes each
    /// stay in memory.
    pub fn pack_named(&self, name: &ObjectHash) -> Result<Option<Arc<RunPack>>, StoreError> {
        self.number_of(name)
            .map(|number| self.pack(number))
            .transpose()
    }

    /// The number of a pack.
    pub fn number_of(&self, name: &ObjectHash) -> Option<u32> {
        let names = self.names.get_or_init(|| {
            let mut names = HashMap::new();
            for slot in &self.slots {
                let each = |pack: u32, row: Row| {
                    names.entry(row.name).or_insert(slot.first_pack + pack);
                };
                if let Err(broken) = slot.segment.each_row(each) {
                    self.heal(slot, &broken);
                }
            }
            names
        });
        if let Some(number) = names.get(name)
            && let Some(PlaceOfPack::Slot(slot, _)) = self.place_of_pack(*number)
            && slot.healed.get().is_none()
        {
            return Some(*number);
        }
        // Of segments that were made anew, now or since the names were read.
        let healed = self.slots.iter().filter_map(|slot| slot.healed.get());
        healed.flatten().find_map(|healed| {
            let number = healed.index.number_of(name)?;
            Some(healed.first_pack + number)
        })
    }

    /// Whether something new may rely on a pack; if so, remembers that the caller does.
    pub fn rely_on_pack(&self, pack: u32) -> bool {
        let Some(PlaceOfPack::Slot(slot, own)) = self.place_of_pack(pack) else {
            return false;
        };
        let flags = &slot.flags[own as usize];
        let known = flags.load(Ordering::Relaxed);
        if known & (REFUSED | LEFT_OUT) != 0 || slot.healed.get().is_some() {
            return false;
        }
        if known & RELIED == 0 {
            let Ok(row) = slot.segment.row(own) else {
                return false;
            };
            lock(&self.relied).insert(row.name);
            flags.fetch_or(RELIED, Ordering::Relaxed);
        }
        true
    }
}
