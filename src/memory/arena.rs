//! stub
/// An owned block-sized piece of the arena; returned when dropped.
pub struct Frame {}
impl std::ops::Deref for Frame {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        todo!()
    }
}
impl std::ops::DerefMut for Frame {
    fn deref_mut(&mut self) -> &mut [u8] {
        todo!()
    }
}
/// A contiguous, aligned buffer.
pub struct IoBuffer {}
impl std::ops::Deref for IoBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        todo!()
    }
}
impl std::ops::DerefMut for IoBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        todo!()
    }
}
