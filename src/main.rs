fn main() {
    std::process::exit(lockrun::main());
}
