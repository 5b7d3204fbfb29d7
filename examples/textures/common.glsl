// What the shaders of this example share: the frame's data, the height of the ground, noise, the sky.
layout(set = 0, binding = 0) uniform Frame {
    mat4 view_projection;
    mat4 from_clip; // clip space to the direction of a ray
    vec4 eye;       // w: seconds
    vec4 sun;       // towards it
} frame;

float river_at(float x) { return 12.0 + 3.2 * sin(x * 0.5) + 1.3 * sin(x * 1.1 + 1.0); }

// scene_height of scene.c, scaled as scene_flight expects it.
float ground(vec2 p)
{
    float hills = 0.5 + 0.25 * sin(p.x * 0.73 + 1.3 * sin(p.y * 0.31)) + 0.25 * sin(p.y * 0.87 + 1.1 * sin(p.x * 0.41));
    float away = smoothstep(0.15, 3.2, abs(p.y - river_at(p.x)));
    return 0.55 * 0.85 * hills * away;
}

float dice(vec2 cell)
{
    uint h = uint(int(cell.x)) * 0x9E3779B1u ^ uint(int(cell.y)) * 0x85EBCA77u;
    h = (h ^ h >> 15) * 0x2C1B3C6Du;
    return float(h >> 8) * (1.0 / 16777216.0);
}

float noise(vec2 p)
{
    vec2 cell = floor(p), part = fract(p);
    part *= part * (3.0 - 2.0 * part);
    return mix(mix(dice(cell), dice(cell + vec2(1, 0)), part.x), mix(dice(cell + vec2(0, 1)), dice(cell + vec2(1, 1)), part.x),
               part.y);
}

// How much cloud is over this place; clouds drift.
float clouds(vec2 p)
{
    p = p * 0.19 + frame.eye.w * vec2(0.012, 0.004);
    float sum = noise(p) * 0.62 + noise(p * 2.7 + 7.0) * 0.38;
    return smoothstep(0.48, 0.78, sum);
}

vec3 haze(vec3 direction)
{
    float towards = max(dot(direction, frame.sun.xyz), 0.0);
    return mix(vec3(0.62, 0.74, 0.88), vec3(1.00, 0.86, 0.66), pow(towards, 3.0) * 0.75);
}
