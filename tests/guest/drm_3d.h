/* The part of drm_program.c that draws in 3D: what it takes from there is declared before it is included. */

static uint32_t word_of(float value)
{
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    return word;
}

static void execute(const uint32_t *words, size_t size, uint32_t handle)
{
    struct execute wanted = { .size = size, .command = (uintptr_t)words, .handles = (uintptr_t)&handle };
    wanted.handle_count = 1;
    wanted.fence = -1;
    call(GPU_EXECUTE, &wanted, "executing 3D commands");
}

static void clear_texture(const struct texture *texture, uint32_t colour)
{
    float part[4];
    for (int at = 0; at < 4; at++) /* red, green, blue, alpha */
        part[at] = (colour >> (at < 3 ? 16 - 8 * at : 24) & 255) / 255.0f;
    const uint32_t words[] = {
        CREATE_OBJECT | SURFACE << 8 | 5 << 16, 1, texture->resource, BGRA, 0, 0,
        SET_FRAMEBUFFER | 3 << 16, 1, 0, 1,
        CLEAR | 8 << 16, CLEAR_COLOUR, word_of(part[0]), word_of(part[1]), word_of(part[2]), word_of(part[3]), 0, 0, 0,
        SET_FRAMEBUFFER | 2 << 16, 0, 0,
        DESTROY_OBJECT | SURFACE << 8 | 1 << 16, 1,
    };
    execute(words, sizeof words, texture->handle);
}

static void read_back(const struct texture *texture)
{
    struct from_host wanted = { texture->handle, { 0, 0, 0, texture->width, texture->height, 1 } };
    call(GPU_FROM_HOST, &wanted, "reading a texture back");
    struct wait wait = { texture->handle, 0 };
    call(GPU_WAIT, &wait, "waiting for the GPU");
}

static void clear(char **words)
{
    struct texture texture = { TEXTURE_2D, BGRA, RENDER_TARGET, .depth = 1, .layers = 1 };
    size_of(words[0], &texture.width, &texture.height);
    uint32_t colour = strtoul(words[1] ? words[1] : "", NULL, 16), same = 0, count = texture.width * texture.height;
    texture.size = PIXEL * count;
    call(GPU_CREATE, &texture, "creating a texture");
    struct gpu_map map = { .handle = texture.handle };
    call(GPU_MAP, &map, "the place of a texture");
    uint32_t *seen = mmap(NULL, texture.size, PROT_READ | PROT_WRITE, MAP_SHARED, card, map.offset);
    checked(seen != MAP_FAILED, "mapping a texture");
    uint64_t start = microseconds();
    clear_texture(&texture, colour);
    read_back(&texture);
    uint64_t took = microseconds() - start;
    for (uint32_t at = 0; at < count; at++)
        same += seen[at] == seen[0];
    say("%u %08x %lu\n", same, seen[0], (unsigned long)took);
    munmap(seen, texture.size);
    struct gpu_close close = { texture.handle };
    call(GEM_CLOSE, &close, "closing a texture");
}
