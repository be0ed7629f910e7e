/* The cheapest command there is: what a run costs without any lock. */
int main(void) { return 0; }
