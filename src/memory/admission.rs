//! stub
/// The bound of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    pub frames: u32,
    pub bytes: u32,
}
/// Proof of admission; pays for what the operation takes.
pub struct Token {}
impl Token {
    /// Moves `frames` of this token into a handle.
    pub fn take(&mut self, frames: u32) -> Credits {
        let _ = frames;
        todo!()
    }
}
/// Frames that a journal handle may use: one for each block it will dirty.
pub struct Credits {}
impl Credits {
    pub fn left(&self) -> u32 {
        todo!()
    }
    /// Takes one frame (contents unspecified).
    pub fn frame(&mut self, class: super::Class) -> super::Frame {
        let _ = class;
        todo!()
    }
}
