pub fn main() -> i32 {
    125
}
